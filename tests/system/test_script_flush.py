"""A store that forgets every script again and again: no call notices."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final

from quota.v1.quota_service_pb2 import HOLD_STATE_RELEASED, HOLD_STATE_SETTLED

from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving

OPENING: Final = 1_000_000
WORKERS: Final = 8
ROUNDS: Final = 60
LEAST_TIMES_FORGOTTEN: Final = 100


async def test_scripts_flushed_during_traffic_fail_no_call_and_double_nothing(tmp_path: Path) -> None:
    with running_store("--appendonly", "yes") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url) as server,
            channels_to(server.address, each=WORKERS) as channels,
        ):
            gateways = [Gateway(channel) for channel in channels]
            await gateways[0].open_account(OPENING)
            async with flushing(store):
                charged = await asyncio.gather(*(work(gateway, n) for n, gateway in enumerate(gateways)))
            assert times_forgotten(store) >= LEAST_TIMES_FORGOTTEN
            balance = await gateways[0].credits()
            assert (balance.held, balance.remaining) == (0, OPENING - sum(charged))
        assert broken_rules(snapshot(store)) == []


async def work(gateway: Gateway, number: int) -> int:
    """Takes, renews, looks, and settles or releases, each with one answer; the credits that were charged."""
    random = Random(number)  # noqa: S311  # the same work in every run
    charged = 0
    for index in range(ROUNDS):
        hold = await gateway.take(f"{number}-{index}")
        assert not hold.replayed
        await gateway.extend(hold.hold_id)
        await gateway.credits()
        if random.random() < 0.5:
            used = random.randint(0, PRICE)
            settled = await gateway.settle(hold.hold_id, used)
            assert (settled.state, settled.applied) == (HOLD_STATE_SETTLED, True)
            charged += used
        else:
            released = await gateway.release(hold.hold_id)
            assert (released.state, released.applied) == (HOLD_STATE_RELEASED, True)
    return charged


@asynccontextmanager
async def flushing(store: RunningStore) -> AsyncIterator[None]:
    """Lets the store forget its scripts as fast as it can."""

    async def flush() -> None:
        while True:
            await asyncio.to_thread(store.command, "SCRIPT", "FLUSH")

    task = asyncio.create_task(flush())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def times_forgotten(store: RunningStore) -> int:
    """How often the store has answered that it does not know a script."""
    found = re.search(rb"errorstat_NOSCRIPT:count=(\d+)", store.command("INFO", "errorstats"))
    return int(found[1]) if found else 0
