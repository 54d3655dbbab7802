"""What the memory engine keeps of one tenant, in plain objects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from server.domain.account import Account
from server.domain.hold import LIVE, HoldNote, HoldView, MeterTotals, State
from server.domain.ledger import Cause, LedgerEntry, Totals
from server.domain.limits.balance import BalanceCell
from server.domain.limits.base import Cell, Change, Ending, Limit, Look, Taken
from server.domain.limits.window import WindowCell
from server.domain.note import Note
from server.domain.policy import HoldTerms
from server.domain.queue import Ticket
from server.domain.reconcile import BalanceState, GrantLeft
from server.domain.units import FOREVER_MS

CellName = tuple[str, tuple[str, ...]]

LIMITS_DUE: Final = "\x01"
"""In place of a hold: time changes an allowance with thresholds."""


@dataclass(slots=True)
class Take:
    """What a hold took from one cell; `meter` is empty for what follows no report."""

    name: CellName
    limit: Limit
    meter: str
    taken: Taken


@dataclass(slots=True)
class Hold:
    """A hold or tombstone, forgotten once `kept_until_ms` has passed (0: never while it is open)."""

    hold_id: str
    state: State
    fingerprint: bytes
    created_at_ms: int
    lease_ends_at_ms: int
    terms: HoldTerms
    note: HoldNote
    figures_key: bytes
    looks: tuple[Look, ...]
    meters: dict[str, MeterTotals]
    takes: list[Take]
    kept_until_ms: int = 0
    ticket: Ticket | None = None

    @property
    def is_live(self) -> bool:
        """Whether it keeps something, and will end by itself."""
        return self.state in LIVE

    def view(self) -> HoldView:
        """As callers see it."""
        open_or_expired = self.state not in {State.SETTLED, State.SETTLED_LATE, State.RELEASED, State.LEFT}
        return HoldView(
            hold_id=self.hold_id,
            state=self.state,
            fingerprint=self.fingerprint,
            created_at_ms=self.created_at_ms,
            lease_ends_at_ms=self.lease_ends_at_ms if open_or_expired and self.state is not State.QUEUED else 0,
            longest_ends_at_ms=self.created_at_ms + self.terms.longest_ms if open_or_expired else 0,
            lease_ms=self.terms.lease_ms if self.lease_ends_at_ms and open_or_expired else 0,
            meters=dict(self.meters),
            note=self.note,
        )


@dataclass(slots=True)
class Schedule:
    """When a balance is refilled next, the start of the cycle that was refilled last, and the plans refilled in it."""

    refill_ms: int
    cycle_ms: int
    plans: list[str]


@dataclass(slots=True)
class Samples:
    """Samples of one record, by their keys: sequence and number; forgotten at `until_ms`."""

    until_ms: int
    entries: dict[int, tuple[int, int]]


@dataclass(slots=True)
class Tenant:
    """All of one tenant; `writes` are the account writes already made, `trimmed` totals of dropped ledger entries,
    `queue` who waits for which cell, in the order of arrival, `told` the id of the last note that the webhook has told.
    `noted` is called when there is a new note. `limits_ms` is when time next changes an allowance with thresholds.
    """

    account: Account | None = None
    writes: dict[str, tuple[bytes, Mapping[str, int]]] = field(default_factory=dict)
    cells: dict[CellName, Cell] = field(default_factory=dict)
    allocations: dict[str, dict[CellName, int]] = field(default_factory=dict)
    samples: dict[tuple[str, str], Samples] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    noted: Callable[[], object] = lambda: None
    told: str = ""
    holds: dict[str, Hold] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    ledger: list[LedgerEntry] = field(default_factory=list)
    sequence: int = 0
    queue: list[tuple[str, str]] = field(default_factory=list)
    trimmed: dict[str, Totals] = field(default_factory=dict)
    limits_ms: int = FOREVER_MS

    def standing_cells(self, now_ms: int = 0) -> list[CellName]:
        """The cells in use that stay, whatever time does."""
        return [n for n, c in self.cells.items() if not isinstance(c, WindowCell) and not c.is_empty(now_ms)]

    def is_blank(self, now_ms: int) -> bool:
        """Whether there is nothing of it."""
        kept = (self.account, self.writes, self.holds, self.ledger, self.notes, self.allocations, self.samples)
        return not any(kept) and all(cell.is_empty(now_ms) for cell in self.cells.values())

    def moved(self, at_ms: int, cause: Cause, reference: str, cell: str, before: Totals) -> None:
        """Writes to the ledger what a step made of a balance's totals."""
        after = balance_of(self, cell).totals
        self.sequence += 1
        self.ledger.append(LedgerEntry(self.sequence, at_ms, cause, reference, cell, before, after))

    def balance_state(self, cell: str) -> BalanceState:
        """A balance with what stands behind it."""
        balance, schedule = balance_of(self, cell), self.schedules.get(cell)
        kept = 0
        for hold in self.holds.values():
            for take in hold.takes if hold.is_live else ():
                if take.name[0] == cell:
                    change = Change(Ending.REPORT, 0, 0, live=True, now_ms=0)
                    total = (hold.meters[take.meter].reported or 0) if take.meter else 0
                    kept += max(take.taken.amount - change.share(take.taken, total), 0)
        return BalanceState(
            totals=balance.totals,
            grants=tuple(GrantLeft(grant.source, grant.expires_at_ms, grant.left) for grant in balance.grants),
            refill_ms=schedule.refill_ms if schedule is not None else 0,
            trimmed=self.trimmed.get(cell),
            kept=kept,
        )

    def first_due(self) -> tuple[int, str]:
        """The first that time makes due: a lease's end with its hold, a change of grants with no id, or LIMITS_DUE."""
        leases = [(hold.lease_ends_at_ms, hold.hold_id) for hold in self.holds.values() if hold.is_live]
        return min([*leases, (self.next_change_ms(), ""), (self.limits_ms, LIMITS_DUE)])

    def next_change_ms(self) -> int:
        """When grants change next by themselves."""
        refills = (schedule.refill_ms for schedule in self.schedules.values())
        expiries = (cell.next_expiry_ms() for cell in self.cells.values() if isinstance(cell, BalanceCell))
        return min([*refills, *expiries], default=FOREVER_MS)


def balance_of(tenant: Tenant, cell: str) -> BalanceCell:
    """The balance of that name, a new one where there is none."""
    balance = tenant.cells.get((cell, ()), BalanceCell())
    assert isinstance(balance, BalanceCell)  # noqa: S101  # grants name balance cells only
    return balance
