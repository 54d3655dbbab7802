"""A store that turns into a read-only replica while the server runs, as in a failover: nothing is taken meanwhile."""

import asyncio
from functools import partial
from pathlib import Path

from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse

from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns
from tests.store_state import broken_rules, snapshot
from tests.stores import free_port, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until_answered

CALLS = 20


async def test_a_store_that_turns_read_only_loses_nothing(tmp_path: Path) -> None:
    with running_store("--appendonly", "yes") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url) as server,
            channels_to(server.address) as (channel,),
        ):
            await health_turns(channel, HealthCheckResponse.SERVING)
            gateway = Gateway(channel)
            await gateway.open_account(1000)
            await gateway.take("before")
            store.command("REPLICAOF", "127.0.0.1", free_port())  # of nobody, so the data stays as it is
            before = snapshot(store)
            faults = await asyncio.gather(*(fault_of(gateway.reserve(f"during-{n}")) for n in range(CALLS)))
            assert {fault.status for fault in faults} == {StatusCode.UNAVAILABLE}
            assert (await fault_of(gateway.settle("before", 3))).status is StatusCode.UNAVAILABLE
            assert snapshot(store) == before
            store.command("REPLICAOF", "NO", "ONE")
            await until_answered(partial(gateway.settle, "before", 3))
            await asyncio.gather(*(until_answered(partial(gateway.take, f"during-{n}")) for n in range(CALLS)))
            balance = await gateway.credits()
            assert (balance.held, balance.remaining) == (CALLS * PRICE, 1000 - 3 - CALLS * PRICE)
        assert broken_rules(snapshot(store)) == []
