"""The webhook's bookkeeping in Redis: a lease, a cursor per tenant, and an index per hash slot."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from server.domain.errors import CorruptStateError
from server.domain.operation import TenantRef
from server.engine import keys, sequences
from server.engine.pipeline import Reply, Word
from server.engine.replies import fault_of
from server.engine.store_errors import StoreError

BATCH: Final = 512
"""Index keys that are looked at in one write."""

MOST_PER_SLOT: Final = 1000
"""Tenants of one slot that are answered at once; the others come when these are done."""

CallScript = Callable[[str, Sequence[bytes], Sequence[bytes], float], Awaitable[list[Any]]]


class PlainCaller(Protocol):
    """What this needs of the store's connection beside scripts."""

    def call(self, *words: Word, timeout_s: float = 1.0) -> Awaitable[Reply]:
        """Runs a plain command."""


class RedisFeed:
    """`call_script` is the engine's own way to call a script of that name."""

    def __init__(self, call_script: CallScript, store: PlainCaller, clock: Callable[[], int]) -> None:
        self._call_script = call_script
        self._store = store
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
                self._store.call("ZRANGE", key, 0, MOST_PER_SLOT - 1, "WITHSCORES", timeout_s=within_s)
                for key in index[start : start + BATCH]
            ]
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(answer, StoreError):
                    raise fault_of("untold", answer) from answer
                if isinstance(answer, BaseException):
                    raise answer
                for member, at_ms in zip(answer[::2], answer[1::2], strict=True):
                    with suppress(CorruptStateError):  # it names no tenant
                        found[keys.tenant_of(member)] = int(float(at_ms))
        return found

    async def cursor(self, ref: TenantRef, within_s: float) -> str:
        """Reads the cursor."""
        try:
            told: bytes | None = await self._store.call("GET", keys.tenant_keys(ref).told, timeout_s=within_s)
        except StoreError as error:
            raise fault_of("cursor", error) from error
        return told.decode() if told is not None else ""

    async def tell(self, ref: TenantRef, cursor: str, note_id: str, within_s: float) -> bool:
        """Moves the cursor."""
        tenant = keys.tenant_keys(ref)
        names = (tenant.cells, tenant.account, tenant.due, tenant.due_index)
        args = (sequences.pack([cursor, note_id]),)
        return await self._call_script("tell", names, args, within_s) == [1]
