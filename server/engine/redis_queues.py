"""Queues in Redis: tickets, turns, and the renewal of what open calls have."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import QueueTerms, Ticket, queue_terms
from server.engine import keys, records, sequences, wire, wire_queues
from server.engine.base import Queued, Stale
from server.engine.faults import no_queue, no_such_hold
from server.engine.queues import Claimed, Renewed
from server.engine.replies import unreadable
from server.engine.store_calls import ScriptCall
from server.engine.turns import Turns

OUTDATED: Final = wire_queues.pack_terms(QueueTerms(version=0, from_ms=0, until_ms=0, groups=()))
"""Terms that are never in force: the script that finds them asks for those that are."""

NO_QUEUE: Final = 7
"""The reply of the ticket's script where the plan knows of no queue: its policy was changed."""


class Reap(Protocol):
    """Does all that is due at a tenant, and makes turns."""

    def __call__(self, tenant: keys.TenantKeys, within_s: float, *, queues: bytes = b"") -> Awaitable[int]:
        """How many holds ended; `queues` are terms that are put in force, packed."""


class RunScript(Protocol):
    """Runs a script for a tenant, once nothing of it is overdue."""

    def __call__(self, call: ScriptCall, within_s: float) -> Awaitable[list[Any]]:
        """Its reply; raises a HoldgateError."""


class RedisQueues:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(
        self,
        run: RunScript,
        reap: Reap,
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
        call = ScriptCall("ticket", tenant, hold_id, args, packed.window_keys)
        reply = await self._run(call, within_s)
        if reply[0] == NO_QUEUE or (reply[0] == 1 and reply[-1]):  # what is stored says less than this plan
            terms = queue_terms(plan.policy, ref, plan.account, reply[1])
            await self._reap(tenant, within_s, queues=wire_queues.pack_terms(terms))
            reply = await self._run(call, within_s)
        match reply:
            case [1, now_ms, _, rows, position, lasts_ms, _]:
                return Queued(now_ms, packed.form.looks(rows, now_ms), position, lasts_ms)
            case [2, now_ms, record, rows]:
                return Claimed(now_ms, records.hold_of(hold_id, record), packed.form.looks(rows, now_ms))
            case [0, now_ms, record]:
                return Claimed(now_ms, records.hold_of(hold_id, record), ())
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
            case [6, _]:
                raise no_such_hold(ref, hold_id)
            case [7, _, record]:
                raise no_queue(records.hold_of(hold_id, record))
        raise unreadable("ticket", reply)

    async def leave(self, ref: TenantRef, hold_id: str, owner: str, within_s: float) -> None:
        """Releases a place in a queue."""
        tenant = keys.tenant_keys(ref)
        args = (sequences.pack([self._clock(), hold_id, owner]),)
        match await self._run(ScriptCall("release", tenant, hold_id, args), within_s):
            case [1, _, _, more] if more:
                await self._reap(tenant, within_s)

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

    async def see_to(self, ref: TenantRef, within_s: float, *, afresh: bool = False) -> None:
        """Reaps, which also makes turns."""
        await self._reap(keys.tenant_keys(ref), within_s, queues=OUTDATED if afresh else b"")
