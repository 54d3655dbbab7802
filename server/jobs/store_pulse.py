"""Feels whether the store answers, so that a frozen one is known for what it is before anybody asks it something."""

from collections.abc import Awaitable, Callable
from typing import Final

from server.engine.store_errors import StoreError

INTERVAL_S: Final = 0.25
PATIENCE_S: Final = 0.5
"""Without an answer for so long, the store is taken for gone: health says so within a second of its last answer."""


class StorePulse:
    """`ping` asks for any answer within some seconds, and raises StoreError."""

    def __init__(self, ping: Callable[[float], Awaitable[object]]) -> None:
        self._ping = ping
        self.beats = True

    async def feel(self) -> None:
        """Asks once."""
        try:
            await self._ping(PATIENCE_S)
        except StoreError:
            self.beats = False
        else:
            self.beats = True
