"""How many decisions a server makes in a second, and how long they take: figures of the clock, unlike all the others.

Client, server and store share the machine, so they say what one machine does, and less of it when that is busy.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.cpu import Stopwatch, waited_s
from benchmarks.http2 import Connection
from benchmarks.medians import percentile
from benchmarks.pairs import Pairs
from benchmarks.processes import Served, Store, holdgate, store
from benchmarks.standard import Ask, Asking, tenants
from benchmarks.traffic import connected
from benchmarks.travel import IN_FLIGHT, create

TENANTS: Final = 1000
CONNECTIONS: Final = 4
HOT: Final = "org_hot"


@dataclass(frozen=True, slots=True)
class Slices:
    """How many slices, and how many decisions in each."""

    number: int
    decisions: int


@dataclass(frozen=True, slots=True)
class Rate:
    """At saturation, each decision settled at once. Latencies are those of CheckAndReserve; CPU µs are those of a
    decision and its settle.
    """

    decisions_per_s: float
    p50_ms: float
    p99_ms: float
    server_us: float
    store_us: float


@dataclass(frozen=True, slots=True)
class Half:
    """Half of the peak, in an open loop. `waited` is the share of the time that the server was ready to run and waited
    for a core.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    waited: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """1,000 tenants at saturation and at half of that, and one tenant at saturation."""

    peak: Rate
    half: Half
    hot: Rate


async def measure(folder: Path, slices: Slices) -> Throughput:
    """Saturates, then asks at half that rate; then saturates one tenant."""
    with store(folder) as behind, holdgate(folder, behind) as server:
        async with connected(server.address, CONNECTIONS) as connections:
            names = tenants(TENANTS)
            await create(connections, [*names, HOT])
            many = Asking(names)
            bench = Saturation(connections, server, behind, IN_FLIGHT)
            peak = await bench.rate(many, slices)
            half_rate = peak.decisions_per_s / 2
            halves = [
                await _half(connections, many.take(slices.decisions), half_rate, server) for _ in range(slices.number)
            ]
            hot = await bench.rate(Asking([HOT]), slices)
    return Throughput(
        peak=peak,
        half=Half(
            rate=half_rate,
            p50_ms=median(half.p50_ms for half in halves),
            p99_ms=median(half.p99_ms for half in halves),
            waited=median(half.waited for half in halves),
        ),
        hot=hot,
    )


async def _half(connections: Sequence[Connection], asks: Sequence[Ask], rate: float, server: Served) -> Half:
    """One slice of the open loop."""
    pairs = Pairs(connections, asks)
    with _no_collections():
        began_s, waited_before_s = perf_counter(), waited_s(server.pids)
        took = await pairs.paced(rate)
        waited = (waited_s(server.pids) - waited_before_s) / (perf_counter() - began_s)
    pairs.must_be_right()
    return Half(rate, percentile(took, 50) * 1000, percentile(took, 99) * 1000, waited)


class Saturation:
    """Closed loops against one server."""

    def __init__(self, connections: Sequence[Connection], server: Served, behind: Store, in_flight: int) -> None:
        self._connections = connections
        self._server = Stopwatch(server.pids)
        self._store = Stopwatch((behind.pid,))
        self._in_flight = in_flight

    async def rate(self, asking: Asking, slices: Slices) -> Rate:
        """Medians of slices, after one that warms up."""
        await self.slice(asking, slices.decisions)
        return medians([await self.slice(asking, slices.decisions) for _ in range(slices.number)])

    async def slice(self, asking: Asking, decisions: int) -> Rate:
        """So many decisions."""
        pairs = Pairs(self._connections, asking.take(decisions))
        with _no_collections():
            self._server.lap_us()
            self._store.lap_us()
            began_s = perf_counter()
            took = await pairs.closed(self._in_flight)
            elapsed_s = perf_counter() - began_s
        pairs.must_be_right()
        return Rate(
            decisions_per_s=decisions / elapsed_s,
            p50_ms=percentile(took, 50) * 1000,
            p99_ms=percentile(took, 99) * 1000,
            server_us=self._server.lap_us() / decisions,
            store_us=self._store.lap_us() / decisions,
        )


def medians(rates: Sequence[Rate]) -> Rate:
    """Each figure's median."""
    return Rate(**{field.name: median(getattr(rate, field.name) for rate in rates) for field in fields(Rate)})


@contextmanager
def _no_collections() -> Iterator[None]:
    """Garbage collections of the client would look like latency of the server."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
