"""CPU time that processes have used: what a figure counts, since it does not depend on who else uses the machine."""

import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Final

_NS_PER_US: Final = 1000
_NS_PER_S: Final = 1_000_000_000
_ALL_THREADS: Final = 2
"""CPUCLOCK_SCHED of Linux: what the scheduler gave all threads of a process, in nanoseconds."""


class Stopwatch:
    """CPU time of some processes, user and system. Its methods raise OSError when one of them is gone."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._clocks = [_clock_of(pid) for pid in pids]
        self._last_ns = self._now_ns()

    def lap_us(self) -> float:
        """Microseconds used since the last lap, or since the beginning."""
        before_ns, self._last_ns = self._last_ns, self._now_ns()
        return (self._last_ns - before_ns) / _NS_PER_US

    async def took_us(self, work: Awaitable[object]) -> float:
        """Microseconds used while the work was done."""
        self.lap_us()
        await work
        return self.lap_us()

    def _now_ns(self) -> int:
        return sum(map(time.clock_gettime_ns, self._clocks))


def waited_s(pids: Sequence[int]) -> float:
    """Seconds that the threads of these processes have been ready to run while others had the cores."""
    lines = [
        (thread / "schedstat").read_text(encoding="ascii")
        for pid in pids
        for thread in Path(f"/proc/{pid}/task").iterdir()
    ]
    return sum(int(line.split()[1]) for line in lines) / _NS_PER_S


def _clock_of(pid: int) -> int:
    """The id of a process's CPU clock, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | _ALL_THREADS
