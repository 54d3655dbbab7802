"""The webhook's bookkeeping in Redis: a lease, a cursor per tenant, and an index per hash slot."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from server.domain.errors import CorruptStateError
from server.domain.operation import TenantRef
from server.engine import keys, sequences
from server.engine.pipeline import Word

BATCH: Final = 512
"""Index keys that are looked at in one write."""

MOST_PER_SLOT: Final = 1000
"""Tenants of one slot that are answered at once; the others come when these are done."""

CallScript = Callable[[str, Sequence[bytes], Sequence[bytes], float], Awaitable[list[Any]]]


class CallPlain(Protocol):
    """Runs a plain command."""

    def __call__(self, within_s: float, *words: Word) -> Awaitable[Any]:
        """Its reply; raises a HoldgateError."""


class RedisFeed:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(self, call_script: CallScript, call_plain: CallPlain, clock: Callable[[], int]) -> None:
        self._call_script = call_script
        self._call_plain = call_plain
        self._clock = clock

    async def hold_lease(self, owner: str, lasts_ms: int, within_s: float) -> int | None:
        """Takes, renews or gives back the lease."""
        names = (keys.WEBHOOK_LEASE, keys.WEBHOOK_SINCE)
        args = (sequences.pack([self._clock(), owner, lasts_ms]),)
        match await self._call_script("lease", names, args, within_s):
            case [1, since]:
                return int(since)
            case _:
                return None

    async def untold(self, within_s: float) -> Mapping[TenantRef, int]:
        """Asks the index of every slot."""
        found: dict[TenantRef, int] = {}
        index = list(keys.noted_keys())
        for start in range(0, len(index), BATCH):
            calls = [
                self._call_plain(within_s, "ZRANGE", key, 0, MOST_PER_SLOT - 1, "WITHSCORES")
                for key in index[start : start + BATCH]
            ]
            for answer in await asyncio.gather(*calls):
                for member, at_ms in zip(answer[::2], answer[1::2], strict=True):
                    try:
                        found[keys.tenant_of(member)] = int(float(at_ms))
                    except CorruptStateError:
                        continue
        return found

    async def cursor(self, ref: TenantRef, within_s: float) -> str:
        """Reads the cursor."""
        told: bytes | None = await self._call_plain(within_s, "GET", keys.tenant_keys(ref).told)
        return told.decode() if told is not None else ""

    async def tell(self, ref: TenantRef, cursor: str, note_id: str, within_s: float) -> bool:
        """Moves the cursor."""
        tenant = keys.tenant_keys(ref)
        names = (tenant.cells, tenant.account, tenant.due, tenant.due_index)
        args = (sequences.pack([cursor, note_id]),)
        return await self._call_script("tell", names, args, within_s) == [1]
