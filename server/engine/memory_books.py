"""Allocations as the memory engine keeps them."""

from collections.abc import Callable

from server.domain.operation import TenantRef
from server.engine.memory_counts import give_back
from server.engine.memory_tenant import Tenant


class MemoryBooks:
    """`enter` gives a tenant, with all done that time has made due, and the time."""

    def __init__(self, enter: Callable[[TenantRef], tuple[Tenant, int]]) -> None:
        self._enter = enter

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:  # noqa: ARG002  # nothing waits here
        """Gives back a standing allocation."""
        return give_back(self._enter(ref)[0], name, cell)
