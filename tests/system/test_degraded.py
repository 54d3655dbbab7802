"""The store is gone and work goes on, marked and bounded; when it is back, it knows of all that was done meanwhile."""

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1 import quota_service_pb2 as quota
from quota.v1.decision_pb2 import OUTCOME_GRANTED, LimitStatus

from tests.conftest import Figure
from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns
from tests.rpc.processes import ServerProcess
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import PATIENCE_S, until, until_answered

SERVING: Final = HealthCheckResponse.SERVING
OPENING: Final = 100_000
POLLS: Final = 20
CALLERS: Final = 1000


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        yield store


async def figures(gateway: Gateway) -> dict[str, LimitStatus]:
    usage = await gateway.quota.GetUsage(quota.GetUsageRequest(tenant=gateway.tenant))
    return {limit.id: limit for limit in usage.limits}


async def until_degraded(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not (await until_answered(gateway.poll)).degraded:
            pass


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
@pytest.mark.parametrize("blow", ["killed", "frozen"])
async def test_what_was_done_without_the_store_is_booked_once_it_is_back(
    tmp_path: Path, store: RunningStore, blow: str, transport: str
) -> None:
    flags = ("--redis-url", store.url, "--store-timeout-ms", "300", "--transport", transport)
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        await health_turns(channel, SERVING)
        gateway, stranger = Gateway(channel), Gateway(channel, "never seen before")
        await gateway.open_account(OPENING)
        await gateway.take("before")
        store.kill() if blow == "killed" else store.freeze()

        await until_degraded(gateway)
        used = [await gateway.poll() for _ in range(POLLS)] + [await stranger.poll()]
        assert {(d.outcome, d.degraded) for d in used} == {(OUTCOME_GRANTED, True)}
        job = await gateway.start_job("job-1")
        assert (job.outcome, job.degraded, job.hold_id) == (OUTCOME_GRANTED, True, "job-1")
        assert (await gateway.start_job("job-1")).replayed
        assert (await gateway.extend("job-1")).degraded
        for closed in (gateway.reserve("paid"), gateway.start_job("job-2"), gateway.settle("before", 1)):
            fault = await fault_of(closed)
            assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (await gateway.release("job-1")).applied
        assert (await gateway.start_job("job-2")).degraded

        store.start() if blow == "killed" else store.thaw()
        await until_answered(lambda: gateway.settle("before", 3))
        await until_booked(server)
        known = await figures(gateway)
        assert known["rpm"].used >= POLLS + 3
        assert known["jobs"].used == 1
        assert (known["credits"].held, known["credits"].remaining) == (0, OPENING - 3)
        assert (await figures(stranger))["rpm"].used == 1
        assert not (await gateway.release("job-1")).applied
        assert (await gateway.release("job-2")).applied
        assert not (await gateway.start_job("job-3")).degraded
        assert broken_rules(snapshot(store)) == []


async def until_booked(server: ServerProcess) -> None:
    """Returns once its log tells of bookings that left nothing."""
    await until(lambda: "; 0 are left" in server.log(), what="the bookings")


async def test_a_thousand_waiting_calls_are_no_stampede_when_the_store_is_back(
    tmp_path: Path, store: RunningStore, figure: Figure
) -> None:
    """Each takes its place once, over the one connection that the server opens again."""
    flags = ("--redis-url", store.url, "--store-timeout-ms", "300")
    async with serving(tmp_path, *flags) as server, channels_to(server.address, each=8) as channels:
        await health_turns(channels[0], SERVING)
        gateways = [Gateway(channel) for channel in channels]
        await gateways[0].open_account(OPENING)
        store.kill()
        assert (await fault_of(gateways[0].reserve("warm"))).status is StatusCode.UNAVAILABLE
        waiting = [asyncio.create_task(until_answered(partial(gateways[n % 8].take, f"r-{n}"))) for n in range(CALLERS)]
        await asyncio.sleep(0)
        store.start()
        back_at_s = monotonic()
        await asyncio.gather(*waiting)
        figure(f"{CALLERS:,} callers that waited were granted within {monotonic() - back_at_s:.1f} s of its return")
        opened = re.search(rb"total_connections_received:(\d+)", store.command("INFO", "stats"))
        assert opened
        assert int(opened[1]) < 30, "connections of the server, and those of the test itself"
        assert (await gateways[0].credits()).held == CALLERS * PRICE


async def test_an_emptied_store_gets_what_was_done_without_it_and_sells_nothing(tmp_path: Path) -> None:
    """What is booked has no money behind it; that waits for an operator."""
    with running_store() as store:  # nothing in a file: a restart is a loss
        flags = ("--redis-url", store.url, "--store-timeout-ms", "300")
        async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
            await health_turns(channel, SERVING)
            gateway = Gateway(channel)
            await gateway.open_account(OPENING)
            store.kill()
            await until_degraded(gateway)
            await gateway.start_job("job-1")
            store.start()
            await until_booked(server)
            assert (await fault_of(gateway.reserve("paid"))).reason == "STORE_LOST"
            assert (await gateway.release("job-1")).applied
