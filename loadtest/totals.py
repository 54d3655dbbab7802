"""All processes' measurements in one: sums, latencies, and how they went second by second."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hdrh.histogram import HdrHistogram

from loadtest.recorder import RESERVE, RPCS, Counts, Interval, histogram

_KEPT_SECONDS: Final = 3
"""Seconds that are kept open for processes that report late."""

_SHORTEST_S: Final = 0.3
"""A last second shorter than this says nothing about rates."""


class Moment(NamedTuple):
    """One second of the run: rates per second, and latencies of CheckAndReserve in ms (None without answers)."""

    at_s: float
    granted: float
    refused: float
    failed: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @property
    def middle_s(self) -> float:
        """Where it is drawn."""
        return self.at_s + 0.5


@dataclass(slots=True)
class _Second:
    at_s: int
    granted: float = 0.0
    refused: float = 0.0
    failed: float = 0.0
    latencies: HdrHistogram = field(default_factory=histogram)

    def add(self, interval: Interval) -> None:
        length_s = interval.end_s - interval.start_s
        self.granted += interval.counts.granted / length_s
        self.refused += interval.counts.refused.total() / length_s
        self.failed += interval.counts.errors.total() / length_s
        if RESERVE in interval.latencies:
            self.latencies.decode_and_add(interval.latencies[RESERVE])

    def moment(self) -> Moment:
        taken = self.latencies
        p50, p99, most = (
            (milliseconds(taken, 50), milliseconds(taken, 99), milliseconds(taken, 100))
            if taken.total_count
            else (None, None, None)
        )
        return Moment(self.at_s, self.granted, self.refused, self.failed, p50, p99, most)


class Totals:
    """Sums of what the processes sent. `busy` is the largest share of a core that one of them took under load."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.latencies = {rpc: histogram() for rpc in RPCS}
        self.elapsed_s = 0.0
        self.busy = 0.0
        self._moments: list[Moment] = []
        self._open: dict[int, _Second] = {}

    def add(self, interval: Interval) -> None:
        """Adds one process's interval."""
        self.counts.add(interval.counts)
        for rpc, encoded in interval.latencies.items():
            self.latencies[rpc].decode_and_add(encoded)
        if interval.counts.decisions:
            self.elapsed_s = max(self.elapsed_s, interval.end_s)
        second = round(interval.start_s)
        if interval.end_s - interval.start_s < _SHORTEST_S or (self._moments and second <= self._moments[-1].at_s):
            return
        self._open.setdefault(second, _Second(second)).add(interval)
        self._close(second - _KEPT_SECONDS)

    def latest(self) -> Moment | None:
        """The last second that all processes have probably reported."""
        seconds = sorted(self._open)
        if len(seconds) > 1:
            return self._open[seconds[-2]].moment()
        return self._moments[-1] if self._moments else None

    def moments(self) -> list[Moment]:
        """The run, second by second; to be asked at its end."""
        self._close(max(self._open, default=0))
        return self._moments

    def _close(self, last: int) -> None:
        for second in sorted(self._open):
            if second <= last:
                self._moments.append(self._open.pop(second).moment())


def milliseconds(taken: HdrHistogram, percentile: float) -> float:
    """The latency that so many percent do not exceed, in milliseconds."""
    value: int = taken.get_value_at_percentile(percentile)
    return value / 1000
