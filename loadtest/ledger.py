"""What the callers know: everything that they were granted, charged and still hold, by tenant.

Kept while the load runs, so it only adds up; what the limits ought to show is worked out by the audit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from quota.v1 import decision_pb2
from quota.v1 import quota_service_pb2 as quota

Scope = tuple[tuple[str, str], ...]
"""Dimensions with their values, sorted."""


class Touched(NamedTuple):
    """A limit that a kind of request is counted by."""

    limit_id: str
    kind: int
    meter: str
    scope: Scope


class OpenHold(NamedTuple):
    """A hold that its caller has not ended. Its lease ends between two instants of the callers' clock."""

    amounts: Mapping[str, int]
    ends_after_s: float
    ends_before_s: float


@dataclass(slots=True)
class Tally:
    """What came of one kind of request for one tenant.

    `granted` and `charged` are units by meter. `wrong` counts units by which answers differ from what they should
    have been, by what they were about.
    """

    scope: Scope
    limits: tuple[Touched, ...] = ()
    granted: Counter[str] = field(default_factory=Counter)
    charged: Counter[str] = field(default_factory=Counter)
    open: dict[str, OpenHold] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Hold:
    """A grant in its caller's hands."""

    tenant: str
    hold_id: str
    amounts: Mapping[str, int]
    leased: bool
    tally: Tally


class Ledger:
    """One process's knowledge, by tenant's number and kind of request."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[int, int, Scope], Tally] = {}

    def granted(
        self,
        key: tuple[int, int, Scope],
        request: quota.CheckAndReserveRequest,
        decision: decision_pb2.Decision,
        asked_s: float,
        answered_s: float,
    ) -> Hold:
        """Books a grant to a request that went out and was answered at these instants."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(scope=key[2])
        if not tally.limits:
            tally.limits = _touched(decision.limits)
        amounts = dict(decision.amounts)
        for meter, amount in amounts.items():
            tally.granted[meter] += amount
        if not request.items:
            for meter, asked in request.amounts.items():
                if amounts.get(meter, 0) != asked:
                    tally.wrong[f"granted {meter}"] += abs(amounts.get(meter, 0) - asked)
        leased = decision.HasField("expires_in_ms")
        if leased:
            lease_s = decision.expires_in_ms / 1000
            tally.open[request.request_id] = OpenHold(amounts, asked_s + lease_s, answered_s + lease_s)
        else:
            tally.open.pop(request.request_id, None)
        return Hold(request.tenant, request.request_id, amounts, leased, tally)

    def tallies(self) -> dict[int, list[Tally]]:
        """Everything, by tenant's number."""
        found: dict[int, list[Tally]] = {}
        for (tenant, _, _), tally in self._tallies.items():
            found.setdefault(tenant, []).append(tally)
        return found


def replayed(hold: Hold, decision: decision_pb2.Decision) -> None:
    """Checks the answer to a repeat of the request that made the hold."""
    if decision.outcome != decision_pb2.OUTCOME_GRANTED or not decision.replayed:
        hold.tally.wrong["replayed"] += 1
    for meter, amount in hold.amounts.items():
        if decision.amounts.get(meter, 0) != amount:
            hold.tally.wrong[f"replayed {meter}"] += abs(decision.amounts.get(meter, 0) - amount)


def charged(hold: Hold, parts: tuple[int, int] | None, meters: Sequence[quota.MeterOutcome]) -> None:
    """Books the end of a hold: `parts` delivered out of `parts` reserved; None for a release, which charges nothing."""
    tally = hold.tally
    tally.open.pop(hold.hold_id, None)
    for outcome in meters:
        due = delivered(hold.amounts.get(outcome.meter, 0), *parts) if parts else 0
        if outcome.used != due:
            tally.wrong[f"settled {outcome.meter}"] += abs(outcome.used - due)
        tally.charged[outcome.meter] += due - outcome.uncollected


def delivered(amount: int, parts: int, whole: int) -> int:
    """What a delivered share of an amount comes to: rounded down, yet at least 1 of anything."""
    return max(amount * parts // whole, 1) if parts and amount else 0


def _touched(limits: Sequence[decision_pb2.LimitStatus]) -> tuple[Touched, ...]:
    return tuple(
        Touched(limit.id, limit.kind, limit.meter, tuple(sorted(limit.scope.items())))
        for limit in limits
        if not limit.shadow
    )
