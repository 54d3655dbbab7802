"""Queues in Redis: tickets, turns, and the renewal of what open calls have."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import Ticket
from server.engine import keys, records, sequences, wire
from server.engine.base import Queued, Stale
from server.engine.faults import no_such_hold
from server.engine.queues import Claimed, Renewed
from server.engine.replies import unreadable
from server.engine.store_calls import ScriptCall
from server.engine.turns import Turns


class RunScript(Protocol):
    """Runs a script for a tenant, once nothing of it is overdue."""

    def __call__(self, call: ScriptCall, within_s: float) -> Awaitable[list[Any]]:
        """Its reply; raises a HoldgateError."""


class RedisQueues:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(
        self,
        run: RunScript,
        reap: Callable[[keys.TenantKeys, float], Awaitable[int]],
        clock: Callable[[], int],
        turns: Turns,
        most_cells: int,
    ) -> None:
        self._run = run
        self._reap = reap
        self._clock = clock
        self._most_cells = most_cells
        self.turns = turns

    async def ticket(
        self, plan: Plan, hold_id: str, ticket: Ticket | None, within_s: float
    ) -> Queued | Claimed | Stale:
        """Renews a ticket, or claims its place."""
        ref = plan.operation.ref
        tenant = keys.tenant_keys(ref)
        packed = wire.pack_plan(plan, tenant, self._clock(), self._most_cells)
        args = (packed.argument, wire.pack_ticket(plan, hold_id, ticket))
        reply = await self._run(ScriptCall("ticket", tenant, hold_id, args, packed.window_keys), within_s)
        match reply:
            case [1, now_ms, _, rows, position, lasts_ms]:
                return Queued(now_ms, packed.looks(rows, now_ms), position, lasts_ms)
            case [2, now_ms, record, rows]:
                return Claimed(now_ms, records.hold_of(hold_id, record), packed.looks(rows, now_ms))
            case [0, now_ms, record]:
                return Claimed(now_ms, records.hold_of(hold_id, record), ())
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
            case [6, _]:
                raise no_such_hold(ref, hold_id)
        raise unreadable("ticket", reply)

    async def leave(self, ref: TenantRef, hold_id: str, owner: str, within_s: float) -> None:
        """Releases a place in a queue."""
        tenant = keys.tenant_keys(ref)
        args = (sequences.pack([self._clock(), hold_id, owner]),)
        match await self._run(ScriptCall("release", tenant, hold_id, args), within_s):
            case [1, _, _, more] if more:
                await self._reap(tenant, within_s)
            case [3, _]:
                raise no_such_hold(ref, hold_id)

    async def renew(
        self, ref: TenantRef, cells: Sequence[str], hold_ids: Sequence[str], lasts_ms: int, within_s: float
    ) -> Renewed:
        """Renews tickets, all in one step."""
        tenant = keys.tenant_keys(ref)
        args = (sequences.pack([self._clock(), lasts_ms, tenant.member, len(cells), *cells, *hold_ids]),)
        match await self._run(ScriptCall("renew", tenant, "", args), within_s):
            case [1, now_ms, next_due_ms, gone]:
                return Renewed(now_ms, next_due_ms, tuple(hold_id.decode() for hold_id in gone))
            case reply:
                raise unreadable("renew", reply)

    async def see_to(self, ref: TenantRef, within_s: float) -> None:
        """Reaps, which also makes turns."""
        await self._reap(keys.tenant_keys(ref), within_s)
