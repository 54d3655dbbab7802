"""Who waits in front of pools: what an engine offers for it beside taking the place in the queue."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from server.domain.hold import HoldView
from server.domain.limits.base import Look
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import Ticket
from server.engine.base import Queued, Stale
from server.engine.turns import Turns


class Claimed(NamedTuple):
    """A hold that waits no more: it has its place, or had it, or has left. `looks` are of now, when this claimed it."""

    now_ms: int
    hold: HoldView
    looks: tuple[Look, ...]


class Renewed(NamedTuple):
    """Open calls still wait, all but `gone`; the tenant's next lease ends at `next_due_ms` (0: none)."""

    now_ms: int
    next_due_ms: int
    gone: tuple[str, ...]


class Queues(Protocol):
    """`turns` tells whose turn has come of the open calls of this process. `within_s` bounds each call: past it
    StoreUnavailableError.
    """

    turns: Turns

    async def ticket(
        self, plan: Plan, hold_id: str, ticket: Ticket | None, within_s: float
    ) -> Queued | Claimed | Stale:
        """Renews a place in a queue, or claims the place that its turn has brought; without a ticket it is kept as
        before.
        """

    async def leave(self, ref: TenantRef, hold_id: str, owner: str, within_s: float) -> None:
        """Gives up a place in a queue, if this open call still has it."""

    async def renew(
        self, ref: TenantRef, cells: Sequence[str], hold_ids: Sequence[str], lasts_ms: int, within_s: float
    ) -> Renewed:
        """Renews the places of open calls in the queues of these cells."""

    async def see_to(self, ref: TenantRef, within_s: float, *, afresh: bool = False) -> None:
        """Does what has become due at a tenant, and gives free places to those who wait; `afresh` by the policy as
        it is now, whatever was in force when they came.
        """
