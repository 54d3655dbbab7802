"""Allocations in Redis."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from server.domain.operation import TenantRef
from server.engine import keys, sequences

CallScript = Callable[[str, Sequence[bytes], Sequence[bytes], float], Awaitable[list[Any]]]


class RedisBooks:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(self, call_script: CallScript) -> None:
        self._call_script = call_script

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:
        """Gives back a standing allocation."""
        args = (sequences.pack([name, cell]),)
        (given,) = await self._call_script("deallocate", (keys.tenant_keys(ref).cells,), args, within_s)
        return bool(given)
