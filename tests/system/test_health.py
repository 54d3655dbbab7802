"""Health says whether decisions can be made, by the store as it is and not as it was."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from server.rpc.health import LIVE
from tests.rpc.healths import health_now, health_turns
from tests.stores import RunningStore, running_store
from tests.system.servers import channels_to, serving

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes") as store:
        yield store


async def test_a_frozen_store_is_told_though_nobody_calls_and_so_is_its_return(
    tmp_path: Path, store: RunningStore
) -> None:
    async with serving(tmp_path, "--redis-url", store.url) as server, channels_to(server.address) as (channel,):
        await health_turns(channel, SERVING)
        store.freeze()
        await health_turns(channel, NOT_SERVING)
        assert await health_now(channel, LIVE) == SERVING
        store.thaw()
        await health_turns(channel, SERVING)


async def test_a_server_that_drains_takes_no_calls_soon_and_lives(tmp_path: Path, store: RunningStore) -> None:
    flags = ("--redis-url", store.url, "--drain-seconds", "20")
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        await health_turns(channel, SERVING)
        server.send(signal.SIGTERM)
        await health_turns(channel, NOT_SERVING)
        assert await health_now(channel, LIVE) == SERVING
        server.send(signal.SIGTERM)
