"""How long a queue keeps people waiting is among the metrics."""

import asyncio
from pathlib import Path

from tests.metrics.scraping import scraped
from tests.queues.test_waiting_calls import PLACES, POLICY, Caller
from tests.stores import free_port
from tests.system.servers import channels_to, serving
from tests.waiting import PATIENCE_S


async def test_each_request_that_a_queue_let_through_is_counted_once_with_its_time(tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--policies", str(POLICY), "--metrics-address", metrics, "--drain-seconds", "0", "--store", "memory")
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        caller = Caller(channel)
        await caller.open_account()
        first, second, *_ = await caller.fill()
        assert "holdgate_queue_wait_seconds_count" not in scraped(metrics)  # who found a place has not waited

        call = asyncio.ensure_future(caller.ask("open", wait=True))
        async with asyncio.timeout(PATIENCE_S):
            while await caller.figures() != (PLACES, 1):
                pass
        assert (await caller.decide("ticket")).position == 2
        await caller.release(first)
        await call
        await caller.release(second)
        for _ in range(2):
            assert not (await caller.decide("ticket")).position

        found = scraped(metrics)
        assert found["holdgate_queue_wait_seconds_count"] == {("lab", "jobs"): 2}
        assert 0 < found["holdgate_queue_wait_seconds_sum"]["lab", "jobs"] < 60
