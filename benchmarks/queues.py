"""What a queue costs: the gap between a place that is freed and its next holder's start, over two server processes; the
store's time for a decision, and for the end of a job, as the queue grows; a crowd of calls that wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from grpc import aio
from quota.v1 import decision_pb2, quota_service_pb2, quota_service_pb2_grpc

from benchmarks.cpu import Stopwatch
from benchmarks.medians import percentile
from benchmarks.processes import Served, Store, holdgate, store

POLICY: Final = Path(__file__).with_name("queues.yaml")
WAITING: Final = 200
LENGTHS: Final = (10, 1000, 10_000)
SAMPLES: Final = 200
CROWD: Final = 1000
CONNECTIONS: Final = 8
"""Over which the crowd comes: a connection carries a bounded number of calls."""
WATCHED_S: Final = 6.0
_OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)
_WITHIN_S: Final = 300.0
_QUIET_S: Final = 1.0
_PAUSE_S: Final = 0.002
_US_PER_S: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of the store's time in scripts: for a request that joins a queue of this length, and for the end of
    a job whose place goes to the first in line, with that one's claim.
    """

    length: int
    joins_us: float
    turn_us: float


@dataclass(frozen=True, slots=True)
class Queues:
    """The gap in ms, over `turns` turns; the costs; and what a crowd of waiting calls costs while nothing happens, in
    parts of one core, of a server and of the store.
    """

    turns: int
    gap_p50_ms: float
    gap_p99_ms: float
    costs: Sequence[Cost]
    crowd: int
    server_share: float
    store_share: float


async def measure(folder: Path) -> Queues:
    """Everything, one after the other."""
    flags = ("--policies", str(POLICY), "--store-timeout-ms", "5000")
    with store(folder) as behind:
        (folder / "two").mkdir(parents=True, exist_ok=True)
        with holdgate(folder, behind, *flags) as one, holdgate(folder / "two", behind, *flags) as two:
            async with _calling(one) as first, _calling(two) as second:
                gaps = await _gaps(first, second)
                costs = [await _cost(first, behind, length) for length in LENGTHS]
                server_share, store_share = await _crowd(one, behind)
    return Queues(
        turns=len(gaps),
        gap_p50_ms=percentile(gaps, 50) * 1000,
        gap_p99_ms=percentile(gaps, 99) * 1000,
        costs=costs,
        crowd=CROWD,
        server_share=server_share,
        store_share=store_share,
    )


class _Caller:
    """A client of one server."""

    def __init__(self, channel: aio.Channel) -> None:
        self.quota = quota_service_pb2_grpc.QuotaServiceStub(channel)

    async def ask(self, tenant: str, request_id: str, *, wait: bool = False) -> decision_pb2.Decision:
        """A request for the one place."""
        request = quota_service_pb2.CheckAndReserveRequest(
            tenant=tenant, request_id=request_id, action="job", wait=wait
        )
        return (await self.quota.CheckAndReserve(request, timeout=_WITHIN_S)).decision

    async def until_queued(self, tenant: str, length: int) -> None:
        """Until so many wait."""
        usage = quota_service_pb2.GetUsageRequest(tenant=tenant)
        while (await self.quota.GetUsage(usage)).limits[0].queued < length:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(_PAUSE_S)

    async def release(self, tenant: str, hold_id: str) -> None:
        """Ends a job."""
        await self.quota.Release(quota_service_pb2.ReleaseRequest(tenant=tenant, hold_id=hold_id), timeout=_WITHIN_S)


@asynccontextmanager
async def _calling(served: Served) -> AsyncIterator[_Caller]:
    async with aio.insecure_channel(served.address, options=_OWN_CONNECTION) as channel:
        yield _Caller(channel)


async def _gaps(one: _Caller, two: _Caller) -> list[float]:
    """Each turn: from the release's start to the answer that the next in line gets, at the other server."""
    await one.ask("gap", "first")
    started: dict[int, float] = {}

    async def wait(number: int) -> None:
        await (one, two)[number % 2].ask("gap", f"w-{number}", wait=True)
        started[number] = perf_counter()

    calls = []
    for number in range(WAITING):
        calls.append(asyncio.create_task(wait(number)))
        await one.until_queued("gap", number + 1)
    gaps: list[float] = []
    running = "first"
    for number in range(WAITING):
        freed_s = perf_counter()
        await (two, one)[number % 2].release("gap", running)
        await asyncio.wait_for(calls[number], _WITHIN_S)
        gaps.append(started[number] - freed_s)
        running = f"w-{number}"
    await one.release("gap", running)
    return gaps


async def _cost(caller: _Caller, behind: Store, length: int) -> Cost:
    """With so many tickets in line."""
    tenant = f"length-{length}"
    await caller.ask(tenant, "run")
    for begin in range(0, length, 500):
        await asyncio.gather(*(caller.ask(tenant, f"w-{n}") for n in range(begin, min(begin + 500, length))))
    joins_us = await _scripts_us(behind, [caller.ask(tenant, f"late-{n}") for n in range(SAMPLES)])
    running = ["run", *(f"w-{n}" for n in range(length))]

    async def turn(number: int) -> None:
        await caller.release(tenant, running[number])
        await caller.ask(tenant, running[number + 1])

    turns = min(SAMPLES, length)
    turn_us = await _scripts_us(behind, [_in_turn([turn(n) for n in range(turns)])]) / turns
    return Cost(length, joins_us / SAMPLES, turn_us)


async def _in_turn(works: Sequence[Awaitable[object]]) -> None:
    for work in works:
        await work


async def _scripts_us(behind: Store, works: Sequence[Awaitable[object]]) -> float:
    """Microseconds that the store spends in scripts while this is done."""
    behind.command("CONFIG", "RESETSTAT")
    await _in_turn(works)
    stats = behind.command("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith(("cmdstat_evalsha:", "cmdstat_eval:"))]
    return sum(float(line.partition("usec=")[2].partition(",")[0]) for line in lines)


async def _crowd(served: Served, behind: Store) -> tuple[float, float]:
    """CPU time of a server and of the store, while many calls wait at one server and nothing else happens."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(_calling(served)) for _ in range(CONNECTIONS)]
        await callers[0].ask("crowd", "run")
        calls = [asyncio.create_task(callers[n % CONNECTIONS].ask("crowd", f"w-{n}", wait=True)) for n in range(CROWD)]
        await callers[0].until_queued("crowd", CROWD)
        return await _watched(calls, served, behind)


async def _watched(calls: Sequence[asyncio.Task[Any]], served: Served, behind: Store) -> tuple[float, float]:
    await asyncio.sleep(_QUIET_S)
    watches = Stopwatch(served.pids), Stopwatch([behind.pid])
    await asyncio.sleep(WATCHED_S)
    server_us, store_us = (watch.lap_us() for watch in watches)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    return server_us / WATCHED_S / _US_PER_S, store_us / WATCHED_S / _US_PER_S
