"""Waiting for an instant, in a way that one word ends all waits.

Instants are those of `time.monotonic`: the clock is one for all processes of a machine, and uvloop's own knows only
whole milliseconds.
"""

import asyncio
import math
from time import monotonic

from loadtest.schedule import TIMER_S


class Pauses:
    """The waits of one event loop."""

    def __init__(self) -> None:
        self.ended = False
        self._waiting: set[asyncio.Future[None]] = set()

    def end(self) -> None:
        """Ends every wait, now and from now on."""
        self.ended = True
        for wait in self._waiting:
            _wake(wait)

    async def until(self, instant_s: float) -> None:
        """Waits for the instant, or for the end of all waits. It is not early, and late by a tick of the timer."""
        loop = asyncio.get_running_loop()
        while not self.ended and (left_s := instant_s - monotonic()) > 0:
            wait = loop.create_future()
            timer = loop.call_later(math.ceil(left_s / TIMER_S) * TIMER_S, _wake, wait)
            self._waiting.add(wait)
            try:
                await wait
            finally:
                timer.cancel()
                self._waiting.discard(wait)


def _wake(wait: asyncio.Future[None]) -> None:
    if not wait.done():
        wait.set_result(None)
