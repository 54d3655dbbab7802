"""What is left of a server at twice what it can do: good answers, how long they take, and what is turned away.

Figures of the clock. The peak is measured just before each overload, so that a busy machine slows both. Server and
store have one core, who asks has the others: on the same cores, who asks would be what is overloaded.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.http2 import Connection
from benchmarks.medians import percentile
from benchmarks.processes import Served, Store, holdgate, store
from benchmarks.standard import Ask, Asking, tenants
from benchmarks.throughput import Saturation, Slices
from benchmarks.traffic import connected
from benchmarks.travel import IN_FLIGHT, RESERVE, SETTLE, create

TENANTS: Final = 1000
CONNECTIONS: Final = 16
"""So many that the bound on calls of one connection is not what protects the server."""
TIMES: Final = 2
DECISIONS: Final = 6000
"""In a slice, at least: an overload of less than a second shows how it begins."""
SETTLES_IN: Final = 0.25
"""The part of an overload that is not counted: so long the limit takes to find its place."""

_TICK_S: Final = 0.001
_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Overload:
    """At the peak, and at `TIMES` that: decisions per second that were made, their p99, and the share turned away.
    `asked_per_s` is what was asked for in fact.
    """

    transport: str
    peak_per_s: float
    peak_p99_ms: float
    asked_per_s: float
    good_per_s: float
    good_p99_ms: float
    turned_away: float

    @property
    def kept(self) -> float:
        """Good answers, as a part of the peak."""
        return self.good_per_s / self.peak_per_s


async def measure(folder: Path, slices: Slices) -> list[Overload]:
    """Both transports, one after the other."""
    return [await _measure(folder / name, name, slices) for name in ("asgi", "grpcio")]


async def _measure(folder: Path, transport: str, slices: Slices) -> Overload:
    found: list[Overload] = []
    with _served(folder, transport) as (behind, server):
        async with connected(server.address, CONNECTIONS) as connections:
            names = tenants(TENANTS)
            await create(connections, names)
            asking = Asking(names)
            bench = Saturation(connections, server, behind, IN_FLIGHT)
            decisions = max(slices.decisions, DECISIONS)
            await bench.slice(asking, decisions)
            for _ in range(slices.number):
                peak = await bench.slice(asking, decisions)
                asks = asking.take(TIMES * decisions)
                found.append(
                    await Flood(connections, asks).at(
                        TIMES * peak.decisions_per_s, transport, peak.decisions_per_s, peak.p99_ms
                    )
                )
    figures = [field.name for field in fields(Overload) if field.name != "transport"]
    return Overload(transport, **{name: median(getattr(one, name) for one in found) for name in figures})


@contextmanager
def _served(folder: Path, transport: str) -> Iterator[tuple[Store, Served]]:
    """A store and a server on the first core, and this process on the others meanwhile."""
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, cores[:1])  # what is started has it from who starts it
        with store(folder) as behind, holdgate(folder, behind, "--transport", transport) as server:
            os.sched_setaffinity(0, cores[1:] or cores)
            yield behind, server
    finally:
        os.sched_setaffinity(0, cores)


class Flood:
    """Asks that are due whatever became of the earlier ones; what is granted is settled."""

    def __init__(self, connections: Sequence[Connection], asks: Sequence[Ask]) -> None:
        self._connections = connections
        self._reserves = [ask.reserve().SerializeToString() for ask in asks]
        self._settles = [ask.settle().SerializeToString() for ask in asks]
        self._good: list[tuple[float, float]] = []
        self._left = len(asks)
        self._over = asyncio.Event()

    async def at(self, rate: float, transport: str, peak_per_s: float, peak_p99_ms: float) -> Overload:
        """So many per second."""
        start_s, begun = perf_counter(), 0
        while begun < len(self._reserves):
            due = min(int((perf_counter() - start_s) * rate) + 1, len(self._reserves))
            while begun < due:
                self._begin(begun, start_s + begun / rate)
                begun += 1
            await asyncio.sleep(_TICK_S)
        asked_s = perf_counter() - start_s
        await asyncio.wait_for(self._over.wait(), _WITHIN_S)
        # What is answered when no more is asked is no part of an overload.
        from_s, until_s = start_s + SETTLES_IN * asked_s, start_s + asked_s
        took_s = [took_s for answered_s, took_s in self._good if from_s <= answered_s < until_s]
        good_per_s = len(took_s) / (until_s - from_s)
        return Overload(
            transport=transport,
            peak_per_s=peak_per_s,
            peak_p99_ms=peak_p99_ms,
            asked_per_s=len(self._reserves) / asked_s,
            good_per_s=good_per_s,
            good_p99_ms=percentile(took_s, 99) * 1000,
            turned_away=1 - len(self._good) / len(self._reserves),
        )

    def _begin(self, place: int, due_s: float) -> None:
        connection = self._connections[place % len(self._connections)]

        def decided(answer: bytes) -> None:
            if not answer:
                self._end()
                return
            answered_s = perf_counter()
            self._good.append((answered_s, answered_s - due_s))
            connection.call(SETTLE, self._settles[place], self._end)

        connection.call(RESERVE, self._reserves[place], decided)

    def _end(self, _answer: bytes = b"") -> None:
        self._left -= 1
        if not self._left:
            self._over.set()
