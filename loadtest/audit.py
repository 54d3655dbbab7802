"""Compares what the server says with what its callers know, to the unit. Pure arithmetic.

A tenant that no load touched tells with what the others began. From there, per tenant and limit:

- balance: what the callers charged is gone, what their open holds keep is held, and nothing else happened;
- slots: as many places are taken as the callers hold;
- window: no more is counted than the callers were granted, nor than the limit allows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from quota.v1 import decision_pb2

from loadtest.ledger import OpenHold, Scope, Tally

LEASE_MARGIN_S: Final = 0.05
"""How far the end of a lease may be from where the caller sees it."""


class Cell(NamedTuple):
    """One limit's state for one scope."""

    limit_id: str
    scope: Scope


class Reading(NamedTuple):
    """What the server says of a cell, asked and answered at these instants of the callers' clock."""

    kind: int
    meter: str
    limit: int
    used: int
    held: int
    asked_s: float
    answered_s: float


class Finding(NamedTuple):
    """A figure on which the two sides differ: `off` units. What the callers know may be a range."""

    tenant: str
    what: str
    callers: str
    server: str
    off: int


@dataclass(slots=True)
class Audit:
    """What came of it.

    `uncertain` counts units of holds whose lease ended just while the server was asked; `unknown` is the number of
    operations whose outcome nobody knows, and their tenants are left out. `failure` says why there is no result.
    """

    tenants: int = 0
    figures: int = 0
    units_off: int = 0
    uncertain: int = 0
    unknown: int = 0
    left_out: int = 0
    findings: list[Finding] = field(default_factory=list)
    failure: str = ""

    @property
    def clean(self) -> bool:
        """Whether everything could be compared and nothing differs."""
        return not (self.units_off or self.unknown or self.failure)

    def add(self, checked: "Checked") -> None:
        """Adds one tenant."""
        self.tenants += 1
        self.figures += checked.figures
        self.uncertain += checked.uncertain
        self.units_off += sum(finding.off for finding in checked.findings)
        self.findings.extend(checked.findings)


@dataclass(slots=True)
class Checked:
    """One tenant's part."""

    tenant: str
    figures: int = 0
    uncertain: int = 0
    findings: list[Finding] = field(default_factory=list)

    def equal(self, what: str, callers: int, server: int) -> None:
        """A figure that both sides know exactly."""
        self.within(what, callers, callers, server)

    def within(self, what: str, low: int, high: int, server: int) -> None:
        """A figure that the callers know as a range."""
        self.uncertain += high - low
        self._compare(what, str(low) if low == high else f"{low} to {high}", server, max(low - server, server - high))

    def at_most(self, what: str, bound: int, server: int) -> None:
        """A figure of which the callers know the bound."""
        self._compare(what, f"at most {bound}", server, server - bound)

    def _compare(self, what: str, callers: str, server: int, off: int) -> None:
        self.figures += 1
        if off > 0:
            self.findings.append(Finding(self.tenant, what, callers, str(server), off))


class _Booked(NamedTuple):
    """All that the callers did with one cell: units granted (None where grants do not say) and charged, and what
    they hold.
    """

    granted: int | None
    charged: int
    holds: Sequence[tuple[OpenHold, int]]


def check_tenant(
    tenant: str,
    tallies: Sequence[Tally],
    opening: Mapping[Cell, Reading],
    readings: Mapping[Cell, Reading],
    *,
    unaudited: frozenset[str] = frozenset(),
) -> Checked:
    """Compares one tenant; `opening` are the figures with which it began, `unaudited` limits are left out."""
    checked = Checked(tenant)
    for what, off in sum((tally.wrong for tally in tallies), Counter[str]()).items():
        checked.findings.append(Finding(tenant, f"answers: {what}", "0", str(off), off))
    for cell, reading in readings.items():
        if cell.limit_id not in unaudited:
            _check_cell(checked, cell, reading, _booked(cell, reading, tallies), opening.get(cell))
    return checked


def _check_cell(checked: Checked, cell: Cell, reading: Reading, booked: _Booked, opening: Reading | None) -> None:
    name = cell.limit_id + "".join(f" {key}={value}" for key, value in cell.scope)
    low, high = _held(booked.holds, reading)
    match reading.kind:
        case decision_pb2.LIMIT_KIND_BALANCE:
            began = opening.limit if opening else 0
            checked.equal(f"{name}: {reading.meter} charged", booked.charged, began - reading.limit)
            checked.within(f"{name}: {reading.meter} held", low, high, reading.held)
        case decision_pb2.LIMIT_KIND_SLOTS:
            checked.within(f"{name}: places taken", low, high, reading.used)
        case decision_pb2.LIMIT_KIND_WINDOW:
            bound = reading.limit if booked.granted is None else min(reading.limit, booked.granted)
            checked.at_most(f"{name}: {reading.meter} in the window", bound, reading.used)


def _booked(cell: Cell, reading: Reading, tallies: Iterable[Tally]) -> _Booked:
    touching = [t for t in tallies if any((limit.limit_id, limit.scope) == cell for limit in t.limits)]
    told = all(reading.meter in tally.granted for tally in touching)
    return _Booked(
        granted=sum(tally.granted[reading.meter] for tally in touching) if told else None,
        charged=sum(tally.charged[reading.meter] for tally in touching),
        holds=[(hold, _kept(reading, hold.amounts)) for tally in touching for hold in tally.open.values()],
    )


def _kept(reading: Reading, amounts: Mapping[str, int]) -> int:
    """Units that a hold keeps in a cell: of its meter, or one place."""
    if reading.kind == decision_pb2.LIMIT_KIND_SLOTS:
        return amounts.get(reading.meter, 1)
    return amounts.get(reading.meter, 0)


def _held(holds: Iterable[tuple[OpenHold, int]], reading: Reading) -> tuple[int, int]:
    """The least and the most that open holds may keep at the instant of the reading."""
    low = high = 0
    for hold, units in holds:
        if reading.answered_s < hold.ends_after_s - LEASE_MARGIN_S:
            low += units
        if reading.asked_s <= hold.ends_before_s + LEASE_MARGIN_S:
            high += units
    return low, high
