"""However many subjects ask, and whatever they are called, the metrics have the same series."""

import asyncio
from pathlib import Path
from typing import Final

from grpc import aio
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.metrics.scraping import scraped
from tests.stores import free_port
from tests.system.servers import channels_to, serving

IN_A_BATCH: Final = 200
CONNECTIONS: Final = 4
BY_CENSUS: Final = ("holdgate_store_script", "holdgate_holds_active")
"""What a look at the whole store brings, one for each policy at most, whenever there is one."""


async def ask(channel: aio.Channel, first: int, last: int) -> None:
    """Each subject asks for something to hold, for something else, and for a name that nobody knows; and settles."""
    stub = QuotaServiceStub(channel)
    for begin in range(first, last, IN_A_BATCH):
        asks = []
        for number in range(begin, min(begin + IN_A_BATCH, last)):
            tenant = f"subject-{number}"
            request_id, action = f"r{number}", f"unheard-of-{number}" if number % 3 == 2 else "poll"
            asks.append(
                quota.Operation(
                    check_and_reserve=quota.CheckAndReserveRequest(tenant=tenant, request_id=request_id, action=action)
                )
            )
            if number % 50 == 0:
                asks.append(quota.Operation(settle=quota.SettleRequest(tenant=tenant, hold_id=request_id)))
        await stub.Batch(quota.BatchRequest(operations=asks))


async def test_a_million_subjects_have_the_same_series_as_a_few(tmp_path: Path, figure: Figure) -> None:
    subjects, few = size(3_000, 3_000, 1_000_000), 1_000
    metrics = f"127.0.0.1:{free_port()}"
    async with (
        serving(tmp_path, "--metrics-address", metrics) as server,
        channels_to(server.address, each=CONNECTIONS) as channels,
    ):

        def series() -> set[tuple[str, tuple[str, ...]]]:
            found = scraped(metrics).items()
            return {(name, each) for name, samples in found if not name.startswith(BY_CENSUS) for each in samples}

        async def all_ask(first: int, last: int) -> None:
            step = -(-(last - first) // CONNECTIONS)
            parts = [(begin, min(begin + step, last)) for begin in range(first, last, step)]
            await asyncio.gather(*(ask(c, *part) for c, part in zip(channels, parts, strict=False)))

        await all_ask(0, few)
        before = series()
        await all_ask(few, subjects)
        found = scraped(metrics)
        assert series() == before
        assert sum(found["holdgate_decisions_total"].values()) > subjects / 2
        assert found["holdgate_series_lost_total"] == {(): 0}
    figure(f"{subjects:,} subjects, {len(before)} series after {few:,} of them and at the end")
