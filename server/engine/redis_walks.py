"""Walks over the tenants of a store, by SCAN: there is no index of tenants that have nothing due."""

from collections.abc import Sequence
from typing import Any, Final

from server.domain.operation import TenantRef
from server.engine import keys
from server.engine.pipeline import StoreCaller, Word
from server.engine.replies import fault_of
from server.engine.store_errors import StoreError

KEYS_AT_ONCE: Final = 500
"""Keys that the store looks at for one answer."""


class RedisWalks:
    """Asks by plain commands."""

    def __init__(self, store: StoreCaller) -> None:
        self._store = store

    async def tenants(self, policy: str, cursor: str, within_s: float) -> tuple[Sequence[TenantRef], str]:
        """Those among some keys."""
        pattern = keys.cells_of_policy(policy)
        answer = await self._ask(within_s, "SCAN", cursor or "0", "MATCH", pattern, "COUNT", KEYS_AT_ONCE)
        following, found = answer[0].decode(), answer[1]
        return [keys.tenant_of_cells(key) for key in found], "" if following == "0" else following

    async def walked(self, policy: str, within_s: float) -> str:
        """Reads the terms."""
        known = await self._ask(within_s, "HGET", keys.WALKED, policy)
        return known.decode() if known is not None else ""

    async def claim(self, policy: str, owner: str, lasts_ms: int, within_s: float) -> bool:
        """A key with an end says who walks. Where two come to think that they do, both do what either would."""
        key = keys.walker(policy)
        if await self._ask(within_s, "SET", key, owner, "NX", "PX", lasts_ms) is not None:
            return True
        if await self._ask(within_s, "GET", key) != owner.encode():
            return False
        return await self._ask(within_s, "SET", key, owner, "XX", "PX", lasts_ms) is not None

    async def finish(self, policy: str, terms: str, within_s: float) -> None:
        """Writes the terms, then frees the place."""
        await self._ask(within_s, "HSET", keys.WALKED, policy, terms)
        await self._ask(within_s, "DEL", keys.walker(policy))

    async def _ask(self, within_s: float, *words: Word) -> Any:  # noqa: ANN401  # whatever the command answers
        try:
            return await self._store.call(*words, timeout_s=within_s)
        except StoreError as error:
            raise fault_of(str(words[0]), error) from error
