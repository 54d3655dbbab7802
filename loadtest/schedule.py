"""When calls of an open loop are due, whatever became of the earlier ones."""

from typing import Final

TIMER_S: Final = 0.001
"""What an event loop's timer can tell apart. A call is due at the tick that follows its instant."""


class Arrivals:
    """Instants at a constant rate, in seconds from the start: this process has every `step`-th, from `first` on.

    They are counted, not added up, so that an hour of them is not off by a rounding error.
    """

    def __init__(self, rate: float, *, first: int = 0, step: int = 1) -> None:
        self._rate = rate
        self._next = first
        self._step = step

    @property
    def next_s(self) -> float:
        """The next instant that has not been taken."""
        return self._next / self._rate

    def take(self, elapsed_s: float) -> list[float]:
        """The instants up to `elapsed_s` that have not been taken yet."""
        due = []
        while self.next_s <= elapsed_s:
            due.append(self.next_s)
            self._next += self._step
        return due


def counted_from(due_s: float, now_s: float) -> float:
    """The instant from which the latency of a call counts that was due at `due_s` and goes out at `now_s`.

    That is when it was due, rounded up to the timer's tick: a generator or server that falls behind shows in the
    figures, and the coarseness of a timer that is on time does not.
    """
    return min(now_s, due_s + TIMER_S)
