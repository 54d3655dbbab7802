"""What an operation costs in the server, beside an empty call of grpc.aio with as many reply bytes."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cpu import Stopwatch
from benchmarks.empty_call import ASGI, GRPC_AIO
from benchmarks.http2 import Connection
from benchmarks.medians import Compared, Slice, compared
from benchmarks.processes import empty_call, holdgate, store
from benchmarks.standard import Ask, Asking, tenants
from benchmarks.traffic import connected, unary
from benchmarks.travel import IN_FLIGHT, RESERVE, Batches, Streamed, Unary, Way, create, reply_bytes

TENANTS: Final = 1000
CONNECTIONS: Final = 4
PER_SLICE: Final = 320
"""Operations of one turn: 10 batches."""
EMPTY_CALLS: Final = 160


@dataclass(frozen=True, slots=True)
class WayCost:
    """CPU µs of the server per operation that travels one way, beside an empty call."""

    reserve: Compared
    settle: Compared


@dataclass(frozen=True, slots=True)
class ServerCost:
    """CPU µs of the server per operation. `transport` is an empty call on our own transport: what a decision cannot go
    below. `reply_bytes` is the size of a decision, and of what empty calls answer.
    """

    unary: WayCost
    batch: WayCost
    stream: WayCost
    transport: Compared
    reply_bytes: int


async def measure(folder: Path, rounds: int) -> ServerCost:
    """In each round, for each way to travel: the yardstick, reserves, and settles of what they took."""
    async with AsyncExitStack() as stack:
        behind = stack.enter_context(store(folder))
        server = stack.enter_context(holdgate(folder, behind))
        connections = await stack.enter_async_context(connected(server.address, CONNECTIONS))
        names = tenants(TENANTS)
        asking = Asking(names)
        await create(connections, names)
        size = await reply_bytes(connections, asking.take(1)[0])
        first = asking.take(TENANTS)  # after these the server knows every account
        await Unary(connections).reserve(first)
        await Unary(connections).settle(first)
        empty, ours = [
            _Empty(await stack.enter_async_context(connected(found.address, CONNECTIONS)), found.pids)
            for found in (stack.enter_context(empty_call(folder, name, size)) for name in (GRPC_AIO, ASGI))
        ]
        ways = [
            _Compare(way, Stopwatch(server.pids), empty)
            for way in (Unary(connections), Batches(connections), Streamed(connections[0]))
        ]
        floor: list[Slice] = []
        for _ in range(rounds):
            for way in ways:
                await way.turn(asking.take(PER_SLICE))
            asks = asking.take(EMPTY_CALLS)
            floor.append(Slice(await ours.call_us(asks), await empty.call_us(asks)))
    unary_cost, batch_cost, stream_cost = (way.cost() for way in ways)
    return ServerCost(unary_cost, batch_cost, stream_cost, compared(floor), size)


class _Empty:
    """Empty calls."""

    def __init__(self, connections: Sequence[Connection], pids: Sequence[int]) -> None:
        self._connections = connections
        self._watch = Stopwatch(pids)

    async def call_us(self, asks: Sequence[Ask]) -> float:
        """What a call takes that carries the bytes of one of these."""
        messages = [ask.reserve().SerializeToString() for ask in asks]
        return await self._watch.took_us(unary(self._connections, RESERVE, messages, IN_FLIGHT)) / len(messages)


class _Compare:
    """One way to travel, beside the yardstick."""

    def __init__(self, way: Way, watch: Stopwatch, empty: _Empty) -> None:
        self._way = way
        self._watch = watch
        self._empty = empty
        self._reserves: list[Slice] = []
        self._settles: list[Slice] = []

    async def turn(self, asks: Sequence[Ask]) -> None:
        """One slice of each."""
        yardstick_us = await self._empty.call_us(asks[:EMPTY_CALLS])
        reserves_us = await self._watch.took_us(self._way.reserve(asks))
        settles_us = await self._watch.took_us(self._way.settle(asks))
        self._reserves.append(Slice(reserves_us / len(asks), yardstick_us))
        self._settles.append(Slice(settles_us / len(asks), yardstick_us))

    def cost(self) -> WayCost:
        """What all turns came to."""
        return WayCost(compared(self._reserves), compared(self._settles))
