"""The webhook's bookkeeping in this process, which is the only one that there is."""

from collections.abc import Callable, Mapping

from server.domain.operation import TenantRef
from server.engine.memory_tenant import Tenant


class MemoryFeed:
    """Looks at the tenants of the memory engine."""

    def __init__(self, tenants: Mapping[TenantRef, Tenant], clock: Callable[[], int]) -> None:
        self._tenants = tenants
        self._clock = clock
        self._since_ms: int | None = None
        self._owner = ""

    async def hold_lease(self, owner: str, lasts_ms: int, within_s: float) -> int | None:  # noqa: ARG002  # as in Redis
        """Takes or gives back the lease, which has no end here: its owner is gone only with everything else."""
        if self._owner not in {"", owner}:
            return None
        self._owner = owner if lasts_ms else ""
        if self._since_ms is None:
            self._since_ms = self._clock()
        return self._since_ms

    async def untold(self, within_s: float) -> Mapping[TenantRef, int]:  # noqa: ARG002  # as above
        """Tenants whose last note was not told."""
        found: dict[TenantRef, int] = {}
        for ref, tenant in self._tenants.items():
            waiting = [note.at_ms for note in tenant.notes if int(note.note_id) > int(tenant.told or 0)]
            if waiting:
                found[ref] = waiting[0]
        return found

    async def cursor(self, ref: TenantRef, within_s: float) -> str:  # noqa: ARG002  # as above
        """The tenant's cursor."""
        return self._tenants[ref].told if ref in self._tenants else ""

    async def tell(self, ref: TenantRef, cursor: str, note_id: str, within_s: float) -> bool:  # noqa: ARG002  # as above
        """Moves the cursor."""
        tenant = self._tenants[ref]
        if tenant.told != cursor:
            return False
        tenant.told = note_id
        return True
