"""How much new work is taken: less while calls stand in line, more again when they do not.

Where the line is does not matter, in this process or before the store: by Little's law a call takes as long as there
are calls in work for each that ends in a second. When that is well above what calls take without a line, and more of
them are in work all the time than a busy process needs, and do not become fewer, the line stands. Then only so many are
let in at once as end in the time that a call may take. The others are turned away, at a fraction of an answer's cost.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from types import TracebackType
from typing import Final, Self

from grpc import StatusCode

from server.metrics.metrics import Metrics

BEAT_S: Final = 0.01
BEATS: Final = 10
"""The calls in work are counted so often before the limit is looked at."""

TARGET_S: Final = 0.02
"""How much longer than without a line a call may take."""

FEWEST: Final = 64
"""Calls that are always let in at once: what a process has in work when it is busy and well."""

MOST: Final = 1024
"""Calls that are let in at once without having been seen to be too many."""

FORGET: Final = 1.0002
"""By this factor, at each look, what a call takes without a line is remembered as more: a tenth in a minute. A store
that has moved further away is not taken for an overloaded one for ever.
"""

_ENOUGH: Final = 10
"""Ends of calls that tell how long a call takes."""


class Load:
    """The calls in work that begin something new: `active`, and at most `limit` of them; `done` counts those that
    ended. While its `async with` block runs, the limit follows what the process can do.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self.active = 0
        self.done = 0
        self.limit = MOST
        self._without_line_s = inf
        self._stands = False
        self._timer: asyncio.TimerHandle | None = None
        self._seen: list[int] = []
        self._since_s = 0.0
        self._done_before = 0

    @property
    def is_full(self) -> bool:
        """Whether the next call is one too many."""
        return self.active >= self.limit

    def turn_away(self, path: str) -> None:
        """Counts a call of this method, `/package.Service/Method`, that is not let in: no layer around it ever will."""
        method = path[1:]
        self._metrics.turned_away.add(method)
        self._metrics.calls.add(method, StatusCode.UNAVAILABLE.name)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A call that waits for something else than this process is not in work meanwhile."""
        self.active -= 1
        try:
            yield
        finally:
            self.active += 1

    def look(self, seen: list[int], ended: int, elapsed_s: float) -> None:
        """Follows some time in which these numbers of calls were seen in work, and so many ended."""
        stood, self._stands = self._stands, min(seen) > FEWEST and seen[-1] >= seen[0]
        if ended >= _ENOUGH and sum(seen) >= len(seen):
            per_s = ended / elapsed_s
            takes_s = sum(seen) / len(seen) / per_s
            self._without_line_s = min(self._without_line_s * FORGET, takes_s)
            allowed_s = self._without_line_s + TARGET_S
            # What many callers ask at once becomes less by itself. Once a line was cut, it is kept short.
            if takes_s > allowed_s and ((stood and self._stands) or self.limit < MOST):
                self.limit = min(max(int(per_s * allowed_s), FEWEST), self.limit)
                return
        if self.limit < MOST:
            # Where the line was gone in between there was a burst, and the next one may be larger.
            grown = self.limit * 2 if min(seen) < FEWEST // 4 else self.limit * 9 // 8
            self.limit = min(grown, MOST)

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._seen, self._since_s, self._done_before = [], monotonic(), self.done
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        self._seen.append(self.active)
        if len(self._seen) < BEATS:
            self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
            return
        self.look(self._seen, self.done - self._done_before, monotonic() - self._since_s)
        self._begin()
