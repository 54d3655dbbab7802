"""Whether a decision costs more in the store when there is more in it: tenants, or holds of one tenant.

A store with 100 of them and one with more take turns, slice by slice. The windows are long, so that they are equally
full however long the filling takes.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cpu import Stopwatch
from benchmarks.gateway import Gateway
from benchmarks.medians import Compared, Slice, compared
from benchmarks.processes import Store, store
from benchmarks.standard import Ask, Asking, tenants
from benchmarks.store_calls import watched

SMALL: Final = 100
PER_SLICE: Final = 100
"""Decisions of one turn."""
WHALE: Final = "org_whale"
"""The tenant that has all the holds."""

_AT_ONCE: Final = 10_000
_KNOBS: Final = {"BENCHMARK_WINDOW_S": "7200"}


@dataclass(frozen=True, slots=True)
class Point:
    """CPU µs of a decision with `number` of something in the store; `ratio` is over that with 100."""

    number: int
    us: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The curves, from the smallest size to the largest. `tenants` are asked for at random, so that next to nothing of
    them is in the processor's caches when there are many; `tenants_again` have been asked for a moment ago, so that
    only what the store does is compared, and not where its memory is. `holds` are those of one tenant.
    """

    tenants: Sequence[Point]
    tenants_again: Sequence[Point]
    holds: Sequence[Point]

    @property
    def worst(self) -> float:
        """The largest ratio at the largest size."""
        return max(curve[-1].ratio for curve in (self.tenants, self.tenants_again, self.holds))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes beyond 100, rising, and turns at each of them."""

    beyond: Sequence[int]
    turns: int


async def measure(folder: Path, sizes: Sizes, say: Callable[[str], object]) -> Growth:
    """Fills two pairs of stores, one pair after the other."""
    async with _filled(folder / "tenants-small") as small, _filled(folder / "tenants-large") as large:
        many, again = await _curves(sizes, large.have_tenants, lambda: _tenants_turn(small, large), say, "tenants")
    async with _filled(folder / "holds-small") as small, _filled(folder / "holds-large") as large:
        await small.have_holds(SMALL)
        (deep,) = await _curves(sizes, large.have_holds, lambda: _holds_turn(small, large), say, "holds of one tenant")
    return Growth(many, again, deep)


async def _curves(
    sizes: Sizes,
    fill: Callable[[int], Awaitable[None]],
    turn: Callable[[], Awaitable[Sequence[Slice]]],
    say: Callable[[str], object],
    what: str,
) -> list[list[Point]]:
    """A curve for each slice of a turn; at 100 it has what the yardstick took beside the first size."""
    by_size: list[list[Compared]] = []
    for size in sizes.beyond:
        say(f"growth: {size:,} {what}")
        await fill(size)
        turns = [await turn() for _ in range(sizes.turns)]
        by_size.append([compared(slices) for slices in zip(*turns, strict=True)])
    return [
        [
            Point(SMALL, curve[0].yardstick, 1.0),
            *(Point(size, found.subject, found.ratio) for size, found in zip(sizes.beyond, curve, strict=True)),
        ]
        for curve in zip(*by_size, strict=True)
    ]


async def _tenants_turn(small: "_Filled", large: "_Filled") -> tuple[Slice, Slice]:
    """As many tenants of either store, each asked for once before (of the many: hardly ever more); and a second time.
    Both stores do as much right before, so that neither has its code in the processor's caches when the other has not.
    """
    await large.decision_us(large.of_random_tenants(PER_SLICE))
    large_us = await large.twice_us(large.of_random_tenants(PER_SLICE))
    small.clear()
    await small.have_tenants(SMALL)
    small_us = await small.twice_us(small.of_random_tenants(PER_SLICE))
    return Slice(large_us[0], small_us[0]), Slice(large_us[1], small_us[1])


async def _holds_turn(small: "_Filled", large: "_Filled") -> tuple[Slice]:
    """As many requests of the one tenant of either store."""
    large_us = await large.decision_us(large.of_the_whale(PER_SLICE))
    return (Slice(large_us, await small.decision_us(small.of_the_whale(PER_SLICE))),)


class _Filled:
    """A store, and what is in it."""

    def __init__(self, behind: Store, gateway: Gateway) -> None:
        self._behind = behind
        self._gateway = gateway
        self._watch = Stopwatch((behind.pid,))
        self._chance = random.Random(SMALL)  # noqa: S311  # picks tenants
        self._asking = Asking([WHALE])
        self._tenants = 0
        self._holds = 0

    async def have_tenants(self, number: int) -> None:
        """Adds tenants, each with an active hold, until there are so many."""
        while self._tenants < number:
            names = tenants(min(number - self._tenants, _AT_ONCE), first=self._tenants)
            await self._gateway.create(names)
            await self._gateway.reserve(map(self._asking.ask, names))
            self._tenants += len(names)

    async def have_holds(self, number: int) -> None:
        """Adds active holds of the one tenant until there are so many."""
        if not self._holds:
            await self._gateway.create([WHALE])
            warm = self._asking.take(SMALL)  # after these a window's record no longer grows with every decision
            await self._gateway.reserve(warm)
            await self._gateway.settle(warm)
        while self._holds < number:
            asks = self._asking.take(min(number - self._holds, _AT_ONCE))
            await self._gateway.reserve(asks)
            self._holds += len(asks)

    def of_random_tenants(self, number: int) -> list[Ask]:
        """One request for each of so many tenants."""
        picked = self._chance.sample(range(self._tenants), number)
        return [self._asking.ask(name) for at in picked for name in tenants(1, first=at)]

    def of_the_whale(self, number: int) -> list[Ask]:
        """So many requests for the one tenant."""
        return self._asking.take(number)

    async def decision_us(self, asks: Sequence[Ask]) -> float:
        """CPU µs of the store for each; their holds are settled afterwards."""
        took_us = await self._watch.took_us(self._gateway.reserve(asks))
        await self._gateway.settle(asks)
        return took_us / len(asks)

    async def twice_us(self, asks: Sequence[Ask]) -> tuple[float, float]:
        """The same, and again right afterwards for the same tenants."""
        once_us = await self.decision_us(asks)
        return once_us, await self.decision_us([self._asking.ask(ask.tenant) for ask in asks])

    def clear(self) -> None:
        """Takes everything out of the store."""
        self._behind.command("FLUSHALL")
        self._tenants = self._holds = 0


@asynccontextmanager
async def _filled(folder: Path) -> AsyncIterator[_Filled]:
    with store(folder) as behind:
        async with watched(behind.url) as calls:
            yield _Filled(behind, Gateway(calls, _KNOBS))
