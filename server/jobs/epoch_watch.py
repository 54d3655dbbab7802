"""Asks the store, on each connection and every few seconds, whether it is still the one that is known."""

from pathlib import Path
from typing import Final

from server.engine.epoch import EpochGuard
from server.engine.pipeline import StoreCall
from server.engine.store_errors import StoreError, StoreLost
from server.logs import log

INTERVAL_S: Final = 5.0
"""How soon an emptied store, or an operator's `holdgate store adopt`, is noticed."""


class EpochWatch:
    """`memory` is the file that remembers the store's epoch."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._guard: EpochGuard | None = None
        self._told = ""

    async def on_connect(self, call: StoreCall) -> None:
        """Looks at the store over a new connection, before that serves calls; raises StoreError."""
        guard = EpochGuard(call, self._memory)
        await guard.verify()
        self._guard = guard
        self._tell()

    async def verify(self) -> None:
        """Looks at the store again. While it cannot be reached, what was found last stays; the connection tells."""
        if self._guard is None:
            return
        try:
            await self._guard.verify()
        except StoreLost as error:
            log.error("store.lost", error=str(error))
        except StoreError as error:
            log.debug("store.epoch_unknown", error=str(error))
        self._tell()

    def why_untrusted(self) -> str:
        """What is wrong with the store, for callers; empty while it is the one that is known."""
        if self._guard is None or self._guard.trusted:
            return ""
        try:
            self._guard.require_trusted()
        except StoreLost as error:
            return str(error)
        return ""

    def _tell(self) -> None:
        why = self.why_untrusted()
        if why == self._told:
            return
        self._told = why
        if why:
            log.error("store.lost", error=why)
        else:
            log.info("store.trusted_again")
