"""Walks over the tenants of the memory engine, of which there is one process."""

from collections.abc import Mapping, Sequence

from server.domain.operation import TenantRef
from server.engine.memory_tenant import Tenant


class MemoryWalks:
    """All tenants come at once."""

    def __init__(self, tenants: Mapping[TenantRef, Tenant]) -> None:
        self._tenants = tenants
        self._walked: dict[str, str] = {}

    async def tenants(self, policy: str, cursor: str, within_s: float) -> tuple[Sequence[TenantRef], str]:  # noqa: ARG002  # nothing waits here
        """All of them."""
        return [ref for ref in self._tenants if ref.policy == policy], ""

    async def walked(self, policy: str, within_s: float) -> str:  # noqa: ARG002  # as above
        """What `finish` was told."""
        return self._walked.get(policy, "")

    async def claim(self, policy: str, owner: str, lasts_ms: int, within_s: float) -> bool:  # noqa: ARG002  # as above
        """Nobody else walks."""
        return True

    async def finish(self, policy: str, terms: str, within_s: float) -> None:  # noqa: ARG002  # as above
        """Remembers the terms."""
        self._walked[policy] = terms
