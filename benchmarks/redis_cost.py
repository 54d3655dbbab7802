"""What a decision and a settle cost in the store, beside a script that does nothing with the same arguments."""

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cpu import Stopwatch
from benchmarks.gateway import Gateway
from benchmarks.medians import Compared, Slice, compared
from benchmarks.processes import store
from benchmarks.standard import Asking, WrongAnswer, tenants
from benchmarks.store_calls import Watched, watched

TENANTS: Final = 1000
PER_SLICE: Final = 500
"""Operations of one turn."""


@dataclass(frozen=True, slots=True)
class RedisCost:
    """CPU µs of the store per operation, beside a constant script."""

    reserve: Compared
    settle: Compared


async def measure(folder: Path, rounds: int) -> RedisCost:
    """In each round: reserves, their yardstick, settles of what they took, their yardstick."""
    with store(folder) as behind:
        async with watched(behind.url) as calls:
            gateway = Gateway(calls)
            names = tenants(TENANTS)
            await gateway.create(names)
            asking = Asking(names)
            first = asking.take(TENANTS)
            await gateway.reserve(first)
            await gateway.settle(first)
            watch = Stopwatch((behind.pid,))
            reserves, settles = [], []
            for _ in range(rounds):
                asks = asking.take(PER_SLICE)
                reserves.append(await beside_constant(calls, watch, gateway.reserve(asks), PER_SLICE))
                settles.append(await beside_constant(calls, watch, gateway.settle(asks), PER_SLICE))
    return RedisCost(compared(reserves), compared(settles))


async def beside_constant(calls: Watched, watch: Stopwatch, subject: Awaitable[None], operations: int) -> Slice:
    """The subject, and then the yardstick on the very calls that the subject made; each operation is one call."""
    calls.watch()
    subject_us = await watch.took_us(subject)
    taken = calls.taken()
    if len(taken) != operations:
        raise WrongAnswer(f"{operations} operations took {len(taken)} calls of scripts")
    yardstick_us = await watch.took_us(calls.nothing(taken))
    return Slice(subject_us / operations, yardstick_us / operations)
