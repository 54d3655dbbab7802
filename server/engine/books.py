"""What callers tell an engine of what exists: allocations that stand."""

from typing import Protocol

from server.domain.operation import TenantRef


class Books(Protocol):
    """`within_s` bounds each call: past it StoreUnavailableError."""

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:
        """Gives back what stands under a name, of one cell's name alone if any is given; whether anything did."""
