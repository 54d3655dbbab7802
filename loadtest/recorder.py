"""What a process measured: latencies and outcomes, cut into intervals of about a second."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import grpc
from hdrh.histogram import HdrHistogram
from quota.v1 import decision_pb2

RESERVE: Final = "CheckAndReserve"
SETTLE: Final = "Settle"
RELEASE: Final = "Release"
RPCS: Final = (RESERVE, SETTLE, RELEASE)

_LONGEST_US: Final = 600_000_000
_DIGITS: Final = 3


def histogram() -> HdrHistogram:
    """Microseconds from 1 to ten minutes, to three digits."""
    return HdrHistogram(1, _LONGEST_US, _DIGITS)


@dataclass(slots=True)
class Counts:
    """Outcomes. `refused` goes by code, `errors` by method and status, `replays` counts answers to repeats."""

    granted: int = 0
    settled: int = 0
    released: int = 0
    abandoned: int = 0
    replays: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Adds what another process or interval counted."""
        self.granted += other.granted
        self.settled += other.settled
        self.released += other.released
        self.abandoned += other.abandoned
        self.replays += other.replays
        self.refused.update(other.refused)
        self.errors.update(other.errors)

    @property
    def decisions(self) -> int:
        """Answers to CheckAndReserve that were no errors."""
        return self.granted + self.refused.total()


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened from `start_s` to `end_s` after the warm-up. `latencies` are encoded histograms by method."""

    start_s: float
    end_s: float
    counts: Counts
    latencies: dict[str, bytes]


class Recorder:
    """Counts what was due from `measure_from_s` on, until `until_s` is set; times are those of one clock."""

    def __init__(self, measure_from_s: float) -> None:
        self.measure_from_s = measure_from_s
        self.until_s = float("inf")
        self.last_s = measure_from_s
        self._cut_s = measure_from_s
        self._counts = Counts()
        self._latencies = {rpc: histogram() for rpc in RPCS}

    def measures(self, due_s: float) -> bool:
        """Whether an operation that was due then counts."""
        return self.measure_from_s <= due_s < self.until_s

    def decided(self, decision: decision_pb2.Decision, due_s: float, now_s: float) -> None:
        """A grant or a refusal."""
        if not self.measures(due_s):
            return
        self._took(RESERVE, due_s, now_s)
        if decision.outcome == decision_pb2.OUTCOME_GRANTED:
            self._counts.granted += 1
        else:
            code = decision.refusal.code or decision_pb2.Outcome.Name(decision.outcome)
            self._counts.refused[code] += 1

    def settled(self, due_s: float, now_s: float) -> None:
        """A hold that was settled."""
        if self.measures(due_s):
            self._took(SETTLE, due_s, now_s)
            self._counts.settled += 1

    def released(self, due_s: float, now_s: float) -> None:
        """A hold that was released."""
        if self.measures(due_s):
            self._took(RELEASE, due_s, now_s)
            self._counts.released += 1

    def abandoned(self, due_s: float) -> None:
        """A hold that was left to its lease."""
        self._counts.abandoned += self.measures(due_s)

    def replayed(self, due_s: float) -> None:
        """A repeat that was answered."""
        self._counts.replays += self.measures(due_s)

    def failed(self, rpc: str, status: grpc.StatusCode, due_s: float, now_s: float) -> None:
        """An operation that ended with an error status. Of these only timeouts are among the latencies: a server
        that answers late must not look better than one that answers, nor one that fails at once look fast.
        """
        if self.measures(due_s):
            self._counts.errors[rpc, status.name] += 1
            if status is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._took(rpc, due_s, now_s)

    def cut(self, now_s: float) -> Interval:
        """What was recorded since the last cut; recording goes on with nothing."""
        interval = Interval(
            self._cut_s - self.measure_from_s,
            now_s - self.measure_from_s,
            self._counts,
            {rpc: taken.encode() for rpc, taken in self._latencies.items() if taken.total_count},
        )
        self._cut_s = now_s
        self._counts = Counts()
        for taken in self._latencies.values():
            if taken.total_count:
                taken.reset()
        return interval

    def _took(self, rpc: str, due_s: float, now_s: float) -> None:
        self._latencies[rpc].record_value(min(max(int((now_s - due_s) * 1e6), 1), _LONGEST_US))
        self.last_s = max(self.last_s, now_s)
