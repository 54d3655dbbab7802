"""Holds that were granted without the store: their life in this process until they are booked.

The rules are those of `docs/hold-lifecycle.md`, without limits behind them: what was taken is what the allowance gave.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from server.domain.errors import StoreUnavailableError
from server.domain.hold import Delivered, HoldView, MeterTotals, State
from server.domain.plan import Plan
from server.engine.base import HoldOutcome
from server.engine.faults import decreased, item_totals, no_such_meter, not_active, unfit
from server.engine.memory_totals import is_new, named_totals, unnamed

ENDED = frozenset({State.SETTLED, State.SETTLED_LATE, State.RELEASED, State.DONE})


@dataclass(slots=True, eq=False)
class LocalHold:
    """A grant of the plan's; `booking` is there while the store is being told of it, and done once that is over."""

    plan: Plan
    hold_id: str
    state: State
    created_at_ms: int
    lease_ends_at_ms: int
    meters: dict[str, MeterTotals]
    booking: asyncio.Future[None] | None = None

    @classmethod
    def granted(cls, plan: Plan, hold_id: str, now_ms: int) -> "LocalHold":
        """The hold of a new grant."""
        leased = plan.leaves_hold
        return cls(
            plan=plan,
            hold_id=hold_id,
            state=State.ACTIVE if leased else State.DONE,
            created_at_ms=now_ms,
            lease_ends_at_ms=now_ms + plan.terms.lease_ms if leased else 0,
            meters={meter: MeterTotals(amount, None, 0) for meter, amount in plan.meters.items()},
        )

    def expire(self, now_ms: int) -> None:
        """Ends the lease where its time has come."""
        if self.state is State.ACTIVE and self.lease_ends_at_ms <= now_ms:
            self.state = State.EXPIRED

    def view(self) -> HoldView:
        """As callers see it."""
        terms = self.plan.terms
        leased = self.state not in ENDED
        return HoldView(
            hold_id=self.hold_id,
            state=self.state,
            fingerprint=self.plan.fingerprint,
            created_at_ms=self.created_at_ms,
            lease_ends_at_ms=self.lease_ends_at_ms if leased else 0,
            longest_ends_at_ms=self.created_at_ms + terms.longest_ms if leased else 0,
            lease_ms=terms.lease_ms if leased else 0,
            meters=dict(self.meters),
            note=self.plan.note,
        )

    def settle(self, delivered: Delivered, *, final: bool) -> HoldOutcome:
        """Notes what was delivered; when final, ends the hold."""
        if isinstance(delivered, tuple):
            delivered = item_totals(self.view(), delivered)
        if self.state is State.DONE:
            return self._outcome(applied=False)
        if self.state is State.RELEASED:
            raise unfit(self.view(), "settle")
        named = named_totals(self.hold_id, self.meters, delivered)
        totals = {meter: named.get(meter, unnamed(values, final=final)) for meter, values in self.meters.items()}
        falls = any(total < (self.meters[meter].reported or 0) for meter, total in totals.items())
        rises = any(is_new(self.meters[meter], total, named=meter in named) for meter, total in totals.items())
        if self.state in ENDED:
            if rises or (falls and final):
                raise unfit(self.view(), "settle")
            return self._outcome(applied=False)
        if final and falls:
            raise decreased(self.view())
        if not final and not rises:
            return self._outcome(applied=False)
        self._report({meter: total for meter, total in totals.items() if final or total or meter in named})
        if final:
            self.state = State.SETTLED if self.state is State.ACTIVE else State.SETTLED_LATE
        return self._outcome(applied=True)

    def release(self) -> HoldOutcome:
        """Ends the hold; no more was delivered than reported."""
        applied = self.state is State.ACTIVE
        if applied:
            self.state = State.RELEASED
        return self._outcome(applied=applied)

    def extend(self, used: Mapping[str, int], raised: Plan | None, now_ms: int) -> None:
        """Renews the lease and notes totals; amounts cannot be raised without the store."""
        if self.state is not State.ACTIVE:
            raise not_active(self.view())
        wanted = raised.meters if raised is not None else {}
        for meter in (*used, *wanted):
            if meter not in self.meters:
                raise no_such_meter("used" if meter in used else "amounts", self.hold_id, meter)
        if any(total > self.meters[meter].reserved for meter, total in wanted.items()):
            text = f"hold {self.hold_id!r} was granted without the store and cannot be raised before it is back"
            raise StoreUnavailableError(text)
        self._report({meter: total for meter, total in used.items() if total >= (self.meters[meter].reported or 0)})
        longest_ends_at_ms = self.created_at_ms + self.plan.terms.longest_ms
        renewed_ms = min(now_ms + self.plan.terms.lease_ms, longest_ends_at_ms)
        self.lease_ends_at_ms = max(self.lease_ends_at_ms, renewed_ms)

    def _report(self, totals: Mapping[str, int]) -> None:
        for meter, total in totals.items():
            known = self.meters[meter]
            self.meters[meter] = known._replace(reported=max(total, known.reported or 0))

    def _outcome(self, *, applied: bool) -> HoldOutcome:
        return HoldOutcome(self.state, applied, dict(self.meters))
