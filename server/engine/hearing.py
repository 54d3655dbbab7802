"""Counts what the store answers: also to callers that are gone by then, so that what it did is what was counted."""

from collections.abc import Callable
from typing import Final

from server.domain.hold import State
from server.engine.pipeline import Heard, Reply
from server.metrics.metrics import Metrics

BY_CALL: Final = "call"
BY_SWEEPER: Final = "sweeper"
"""Who reaps."""

ENDINGS: Final = {State.SETTLED: "settled", State.SETTLED_LATE: "settled_late", State.RELEASED: "released"}
"""How holds end that somebody ends, as they are counted."""

_MS_PER_S: Final = 1000


class Hearing:
    """What hears the replies of each script. `opening` is for a reserve that leaves a hold with a lease."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics: Final = metrics
        self._count_open: Final = metrics.holds_opened.one_more()
        self._count_end: Final = {state: metrics.holds_ended.one_more(name) for state, name in ENDINGS.items()}
        self._lagged: Final = metrics.settle_lag.timer()
        self.opening: Final = self._heard("reserve", self._opened)
        self._reaping: Final = {by: self._heard("reap", self._expired(by)) for by in (BY_CALL, BY_SWEEPER)}
        self._others: Final[dict[str, Heard]] = {
            "settle": self._heard("settle", self._settled),
            "release": self._heard("release", self._released),
        }

    def of(self, script: str) -> Heard:
        """What hears a script that opens no hold, by its name."""
        heard = self._others.get(script)
        if heard is None:
            heard = self._others[script] = self._heard(script, None)
        return heard

    def reaping(self, by: str) -> Heard:
        """What hears a reap."""
        return self._reaping[by]

    def _heard(self, script: str, count: Callable[[Reply], None] | None) -> Heard:
        took = self._metrics.store_time.timer(script)

        def timed(_reply: Reply, seconds: float) -> None:
            took(seconds)

        if count is None:
            return timed

        def counted(reply: Reply, seconds: float) -> None:
            took(seconds)
            count(reply)

        return counted

    def _opened(self, reply: Reply) -> None:
        if reply[0] in {1, 6}:
            self._count_open()

    def _settled(self, reply: Reply) -> None:
        if reply[0] == 1 and (count := self._count_end.get(reply[2])) is not None:
            count()
            if isinstance(reply[4], int):  # a hold's record may be corrupt where the settle did not look
                self._lagged((reply[1] - reply[4]) / _MS_PER_S)

    def _released(self, reply: Reply) -> None:
        if reply[0] == 1:
            self._count_end[State.RELEASED]()

    def _expired(self, by: str) -> Callable[[Reply], None]:
        def count(reply: Reply) -> None:
            if reply[2]:
                self._metrics.holds_expired.add(by, by=reply[2])

        return count
