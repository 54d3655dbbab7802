"""What a second worker brings.

Two workers, their store and their callers do not fit on a small machine, so the clock cannot show it there. What two
workers could do is told by CPU time: with cores enough, each makes as many decisions as its own core has time for.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.processes import holdgate, store
from benchmarks.standard import Asking, tenants
from benchmarks.throughput import Rate, Saturation, Slices, medians
from benchmarks.traffic import connected
from benchmarks.travel import IN_FLIGHT, create

TENANTS: Final = 1000
CONNECTIONS: Final = 16
"""The kernel deals connections out to the workers; of so many each gets some."""


@dataclass(frozen=True, slots=True)
class Workers:
    """`capacity_ratio` is 2 times the CPU of a decision with one worker over that with two, a decision with its settle:
    decisions per second that two full cores make over those of one. `clock_ratio` is what the clock says here.
    """

    one: Rate
    two: Rate
    capacity_ratio: float
    clock_ratio: float


async def measure(folder: Path, slices: Slices) -> Workers:
    """One worker and two, in turns, on one store; 50 calls under way for each worker."""
    async with AsyncExitStack() as stack:
        behind = stack.enter_context(store(folder))
        asking = Asking(tenants(TENANTS))
        lanes: list[Saturation] = []
        for number in (1, 2):
            server = stack.enter_context(holdgate(folder / str(number), behind, "--workers", str(number)))
            connections = await stack.enter_async_context(connected(server.address, CONNECTIONS))
            lanes.append(Saturation(connections, server, behind, IN_FLIGHT * number))
            if number == 1:
                await create(connections, tenants(TENANTS))
            await lanes[-1].slice(asking, slices.decisions)
        turns = [[await lane.slice(asking, slices.decisions) for lane in lanes] for _ in range(slices.number)]
    return Workers(
        one=medians([one for one, _ in turns]),
        two=medians([two for _, two in turns]),
        capacity_ratio=median(2 * one.server_us / two.server_us for one, two in turns),
        clock_ratio=median(two.decisions_per_s / one.decisions_per_s for one, two in turns),
    )
