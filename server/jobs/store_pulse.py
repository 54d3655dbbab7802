"""Feels whether the store answers, so that a frozen one is known for what it is before anybody asks it something; and
whether its clock has stepped meanwhile.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from server.engine.store_errors import StoreError
from server.jobs.store_clock import StoreClock, seconds_of, steady_s

INTERVAL_S: Final = 0.25
PATIENCE_S: Final = 0.5
"""Without an answer for so long, the store is taken for gone: health says so within a second of its last answer."""


class StorePulse:
    """`ask_time` asks the store for its time within some seconds, and raises StoreError."""

    def __init__(self, ask_time: Callable[[float], Awaitable[Any]], clock: StoreClock) -> None:
        self._ask_time = ask_time
        self._clock = clock
        self.beats = True

    async def feel(self) -> None:
        """Asks once."""
        asked_s = steady_s()
        try:
            reply = await self._ask_time(PATIENCE_S)
        except StoreError:
            self.beats = False
        else:
            self.beats = True
            self._clock.heard(seconds_of(reply), asked_s, steady_s())
