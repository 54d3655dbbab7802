"""How many calls begin in one turn of the event loop.

Calls that come faster than they are answered stand in a line before the event loop, where nobody sees them: h2corn
hands over so many in each turn, and a turn lasts as long as what begins in it. So few begin that turns are short and
the line comes in, where those who are too many can be told so.
"""

import asyncio
from collections import deque
from typing import Final

from server.rpc.load import Load

PER_TURN: Final = 32
"""Calls that begin in one turn, half of what h2corn hands over at once."""

CROWD: Final = 64
"""So many arrivals in one turn, and more stand outside: it is what h2corn hands over at once."""

PER_CROWDED_TURN: Final = 8
"""Calls that begin then. With fewer, a turn costs more than they do."""


class Pace:
    """Of one event loop, whose new work this load bounds."""

    def __init__(self, load: Load) -> None:
        self._load: Final = load
        self._arrived = self._begun = 0
        self._most = PER_TURN
        self._waiting: Final[deque[asyncio.Future[bool]]] = deque()
        self._turning = False

    def arrive(self) -> None:
        """Counts a call, whatever becomes of it."""
        self._arrived += 1
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def begin(self) -> "asyncio.Future[bool] | None":
        """What a call that arrived waits for before it begins; None: nothing. False: there is no room after all."""
        if self._begun < self._most:
            self._begun += 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return turn

    def _turn(self) -> None:
        self._most = PER_CROWDED_TURN if self._arrived >= CROWD else PER_TURN
        self._turning = self._arrived > 0 or bool(self._waiting)
        self._arrived = self._begun = 0
        too_many = self._load.active - self._load.limit
        while self._waiting and self._begun < self._most:
            call = self._waiting.popleft()
            if call.done():
                continue  # its caller went away
            call.set_result(too_many <= 0)
            if too_many > 0:
                too_many -= 1
            else:
                self._begun += 1
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
