"""Queues in the memory engine: turns, tickets, and what open calls have."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from server.domain.hold import WAITING, State
from server.domain.limits.base import Check, Taken
from server.domain.limits.slots import Slots, SlotsCell
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import QueueTerms, Ticket, ahead
from server.engine.base import Queued, Stale
from server.engine.faults import no_queue, no_such_hold
from server.engine.memory_checks import look_all, name_of, places_taken
from server.engine.memory_tenant import Hold, Take, Tenant
from server.engine.queues import Claimed, Renewed
from server.engine.turns import Turns

Enter = Callable[[TenantRef], tuple[Tenant, int]]
"""The tenant with all done that time has made due, and the time."""


def make_turns(tenant: Tenant, terms: QueueTerms, now_ms: int) -> list[str]:
    """Gives free places to those who wait, first come first; whose turn has come."""
    turns: list[str] = []
    for cap, cells in terms.groups:
        while places_taken(tenant, cells) < cap:
            first = next((each for each in tenant.queue if each[0] in cells), None)
            if first is None:
                break
            tenant.queue.remove(first)
            turns.append(first[1])
            _take_place(tenant, tenant.holds[first[1]], now_ms)
    return turns


def _take_place(tenant: Tenant, hold: Hold, now_ms: int) -> None:
    take = queued_take(hold)
    assert hold.ticket is not None and isinstance(take.limit, Slots)  # noqa: S101, PT018  # as every hold that waits
    cell = tenant.cells.setdefault(take.name, SlotsCell())
    assert isinstance(cell, SlotsCell)  # noqa: S101  # a pool's
    begins_ms = max(now_ms, hold.created_at_ms)  # after a clock that stepped back, too
    cell.begin(take.taken.amount, take.limit, begins_ms)
    take.taken = take.taken._replace(at_ms=begins_ms)
    hold.state = State.PROMOTED
    hold.lease_ends_at_ms = begins_ms + hold.ticket.lasts_ms
    hold.terms = replace(hold.terms, longest_ms=hold.terms.longest_ms + begins_ms - hold.created_at_ms)


def join_queue(tenant: Tenant, hold: Hold, pool: Check, ticket: Ticket, now_ms: int) -> int:
    """Has a new hold wait for a place of the pool, behind all others; its position, from 1."""
    assert pool.queue is not None  # noqa: S101  # as chosen by `waits`
    hold.state, hold.ticket, hold.lease_ends_at_ms = State.QUEUED, ticket, now_ms + ticket.lasts_ms
    hold.takes.append(Take(name_of(pool), pool.limit, "", Taken(pool.take, now_ms, 0, last=True)))
    tenant.queue.append((pool.limit.cell, hold.hold_id))
    return ahead(tenant.queue, pool.queue.cells, hold.hold_id)


def leave_queue(tenant: Tenant, hold: Hold) -> list[Take]:
    """Takes a hold out of its queue; what it took, which has no place among it."""
    tenant.queue = [each for each in tenant.queue if each[1] != hold.hold_id]
    waited = queued_take(hold)
    return [take for take in hold.takes if take is not waited]


def queued_take(hold: Hold) -> Take:
    """The take of the pool that a hold waits for, or waited for."""
    return next(take for take in hold.takes if isinstance(take.limit, Slots) and take.limit.queue is not None)


class MemoryQueues:
    """Asks the engine's tenants. `is_current` tells whether a plan is for the account and time that are."""

    def __init__(
        self,
        enter: Enter,
        release: Callable[[TenantRef, str], object],
        is_current: Callable[[Plan, Tenant, int], bool],
    ) -> None:
        self._enter = enter
        self._release = release
        self._is_current = is_current
        self.turns = Turns()

    async def ticket(
        self,
        plan: Plan,
        hold_id: str,
        ticket: Ticket | None,
        within_s: float,  # noqa: ARG002  # as in Redis
    ) -> Queued | Claimed | Stale:
        """Renews a ticket, or claims its place."""
        tenant, now_ms = self._enter(plan.operation.ref)
        hold = tenant.holds.get(hold_id)
        if hold is None:
            raise no_such_hold(plan.operation.ref, hold_id)
        if hold.state not in WAITING:
            return Claimed(now_ms, hold.view(), ())
        if not self._is_current(plan, tenant, now_ms):
            return Stale(now_ms, tenant.account)
        looks = look_all(plan.checks, tenant, now_ms)
        if hold.state is State.PROMOTED:
            started_ms = queued_take(hold).taken.at_ms
            ends_ms = hold.created_at_ms + hold.terms.longest_ms
            hold.state, hold.lease_ends_at_ms = State.ACTIVE, min(started_ms + hold.terms.lease_ms, ends_ms)
            return Claimed(now_ms, hold.view(), looks)
        if plan.shape.queue is None:
            raise no_queue(hold.view())
        kept = hold.ticket = ticket or hold.ticket
        assert kept is not None  # noqa: S101  # as every hold that waits
        hold.lease_ends_at_ms = now_ms + kept.lasts_ms
        return Queued(now_ms, looks, ahead(tenant.queue, plan.shape.queue.cells, hold_id), kept.lasts_ms)

    async def leave(self, ref: TenantRef, hold_id: str, owner: str, within_s: float) -> None:  # noqa: ARG002  # as above
        """Releases a place in a queue."""
        tenant, _ = self._enter(ref)
        hold = tenant.holds.get(hold_id)
        if hold is not None and hold.state in WAITING and hold.ticket is not None and hold.ticket.owner == owner:
            self._release(ref, hold_id)

    async def renew(
        self,
        ref: TenantRef,
        cells: Sequence[str],
        hold_ids: Sequence[str],
        lasts_ms: int,
        within_s: float,  # noqa: ARG002  # as above
    ) -> Renewed:
        """Renews tickets."""
        tenant, now_ms = self._enter(ref)
        waiting = {hold_id for cell, hold_id in tenant.queue if cell in cells}
        for hold_id in waiting.intersection(hold_ids):
            tenant.holds[hold_id].lease_ends_at_ms = now_ms + lasts_ms
        dues = [hold.lease_ends_at_ms for hold in tenant.holds.values() if hold.is_live]
        gone = tuple(hold_id for hold_id in hold_ids if hold_id not in waiting)
        return Renewed(now_ms, min(dues, default=0), gone)

    async def see_to(self, ref: TenantRef, within_s: float, *, afresh: bool = False) -> None:  # noqa: ARG002  # as above
        """Does what is due, by the policy as it is now."""
        self._enter(ref)
