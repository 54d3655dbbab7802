"""Notices when the store's clock steps: it decides when leases end and what windows count."""

import time
from typing import Final

from server.logs import log
from server.metrics.metrics import Metrics

TOLERANCE_S: Final = 0.1
"""No smaller step is told: windows and leases are longer than that by far."""

DRIFT: Final = 0.001
"""How much faster or slower than each other clocks may run, as while one is corrected: twice what NTP does."""

_US_PER_S: Final = 1_000_000
_MS_PER_S: Final = 1000


def steady_s() -> float:
    """Seconds of a clock that never steps, and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StoreClock:
    """Holds what the store says against a clock that never steps.

    The store read its clock somewhere between asking and answering, so how far it is ahead is known as a range. A step
    is what no point of the last range explains: however slow an answer, it is never taken for one.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ahead: tuple[float, float] | None = None
        self._heard_s = 0.0
        for direction in ("forward", "back"):
            metrics.clock_steps.add(direction, by=0)  # there from the start, so that the first step is a rise

    def heard(self, store_s: float, asked_s: float, answered_s: float) -> None:
        """Takes down what the store's clock was, asked and answered at these times of the steady clock."""
        low, high = store_s - answered_s, store_s - asked_s
        if self._ahead is not None:
            known_low, known_high = self._ahead
            allowed_s = TOLERANCE_S + DRIFT * (answered_s - self._heard_s)
            if low - known_high > allowed_s:
                self._tell("forward", low - known_high)
            elif known_low - high > allowed_s:
                self._tell("back", high - known_low)
            elif max(low, known_low) <= min(high, known_high):
                low, high = max(low, known_low), min(high, known_high)
        self._ahead, self._heard_s = (low, high), answered_s

    def _tell(self, direction: str, by_s: float) -> None:
        self._metrics.clock_steps.add(direction)
        log.warning("store.clock_stepped", direction=direction, by_ms=round(by_s * _MS_PER_S))


def seconds_of(reply: list[bytes]) -> float:
    """What TIME answers, in seconds."""
    seconds, micros = reply
    return int(seconds) + int(micros) / _US_PER_S
