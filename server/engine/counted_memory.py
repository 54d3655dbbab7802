"""The memory engine, counted: what becomes of holds, by the same numbers as with a store."""

from collections.abc import Callable

from server.domain.act import Act
from server.domain.allowances import LooksOf, no_looks
from server.domain.hold import Delivered, State
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import TermsOf, Ticket, no_queues
from server.domain.refill import RefillTerms, no_refills
from server.engine.base import Granted, HoldOutcome, Queued, Refused, Replayed, Stale
from server.engine.hearing import BY_CALL, BY_SWEEPER, ENDINGS
from server.engine.memory_engine import MemoryEngine
from server.engine.memory_tenant import Tenant
from server.metrics.metrics import Metrics

_MS_PER_S = 1000


class CountedMemoryEngine(MemoryEngine):
    """`MemoryEngine` for a server."""

    def __init__(  # noqa: PLR0913  # what it is put together from
        self,
        clock: Callable[[], int],
        metrics: Metrics,
        *,
        refills: RefillTerms = no_refills,
        queues: TermsOf = no_queues,
        most_cells: int = 1000,
        looks: LooksOf = no_looks,
    ) -> None:
        super().__init__(clock, refills=refills, queues=queues, most_cells=most_cells, looks=looks)
        self._metrics = metrics
        self._reaping_by = BY_CALL

    async def reserve(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None = None
    ) -> Granted | Refused | Replayed | Stale | Queued:
        """Takes all of the plan's checks or none."""
        answer = await super().reserve(plan, hold_id, within_s, ticket)
        if isinstance(answer, Queued) or (isinstance(answer, Granted) and answer.lease_ends_at_ms):
            self._metrics.holds_opened.add()
        return answer

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, hold_id: str, delivered: Delivered, *, final: bool, within_s: float, allocation: str = ""
    ) -> HoldOutcome:
        """Charges what was delivered; when final, ends the hold."""
        outcome = await super().settle(ref, hold_id, delivered, final=final, within_s=within_s, allocation=allocation)
        if final and outcome.applied:
            self._metrics.holds_ended.add(ENDINGS[outcome.state])
            held_ms = self._clock() - self._tenants[ref].holds[hold_id].created_at_ms
            self._metrics.settle_lag.took(held_ms / _MS_PER_S)
        return outcome

    async def sweep(self) -> int:
        """Expires overdue holds of all tenants."""
        self._reaping_by = BY_SWEEPER
        try:
            return await super().sweep()
        finally:
            self._reaping_by = BY_CALL

    def _release(self, ref: TenantRef, hold_id: str, act: Act | None = None) -> HoldOutcome:
        outcome = super()._release(ref, hold_id, act)
        if outcome.applied:
            self._metrics.holds_ended.add(ENDINGS[State.RELEASED])
        return outcome

    def _enter(self, ref: TenantRef) -> tuple[Tenant, int]:
        before = self._tenants.get(ref, Tenant())
        open_before = [hold for hold in before.holds.values() if hold.is_live]
        entered = super()._enter(ref)
        if expired := sum(not hold.is_live for hold in open_before):
            self._metrics.holds_expired.add(self._reaping_by, by=expired)
        return entered
