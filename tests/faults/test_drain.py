"""Servers that stop one after the other under traffic: callers who look at health and send again lose nothing."""

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.rpc.processes import ServerProcess
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.system.gateway import Gateway
from tests.system.servers import OWN_CONNECTION, serving
from tests.waiting import PAUSE_S, until

OPENING: Final = 10_000_000
WORKERS: Final = 8
GOODBYES: Final = 4
DRAIN_S: Final = "2"


class Fleet:
    """The servers that are there, as a balancer knows them: those whose health says SERVING come first."""

    def __init__(self) -> None:
        self.channels: dict[str, aio.Channel] = {}
        self.leaving: set[str] = set()
        self.resent = 0

    def some(self, turn: int) -> aio.Channel:
        """A server to ask."""
        ready = sorted(self.channels.keys() - self.leaving) or sorted(self.channels)
        return self.channels[ready[turn % len(ready)]]

    async def watch(self, address: str) -> None:
        """Follows a server's health until it is gone."""
        try:
            async for told in HealthStub(self.channels[address]).Watch(HealthCheckRequest()):  # type: ignore[attr-defined]  # not in its stub
                if told.status != HealthCheckResponse.SERVING:
                    self.leaving.add(address)
        except aio.AioRpcError:
            self.leaving.add(address)


async def take_all(fleet: Fleet, name: str, calls: int, taken: list[str]) -> None:
    """Takes so many pieces of work, each asked again elsewhere with the same id where a server went."""
    for number in range(calls):
        turn = number
        async with asyncio.timeout(30):
            while True:
                try:
                    await Gateway(fleet.some(turn)).take(f"{name}-{number}")
                except aio.AioRpcError as error:
                    if error.code() not in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}:
                        raise
                    fleet.resent += 1
                    turn += 1
                    await asyncio.sleep(PAUSE_S)
                else:
                    break
        taken.append(f"{name}-{number}")


async def live(folder: Path, store: RunningStore, fleet: Fleet, goes: Callable[[], bool]) -> None:
    """One server, from its start to its end by SIGTERM."""
    async with (
        serving(folder, "--redis-url", store.url, "--drain-seconds", DRAIN_S) as server,
        aio.insecure_channel(server.address, options=OWN_CONNECTION) as channel,
    ):
        fleet.channels[server.address] = channel
        watching = asyncio.create_task(fleet.watch(server.address))
        await until(goes, what="the time to go", within_s=100)
        await leave(server)
        await watching
        del fleet.channels[server.address]


def has_come(taken: list[str], share: int) -> bool:
    """Whether so many calls have been answered."""
    return len(taken) >= share


async def leave(server: ServerProcess) -> None:
    server.send(signal.SIGTERM)
    assert await asyncio.to_thread(server.exit_status) == 0


async def test_servers_that_leave_under_traffic_lose_no_call(
    tmp_path_factory: pytest.TempPathFactory, figure: Figure
) -> None:
    calls, taken = size(800, 1_000, 10_000), list[str]()
    fleet = Fleet()
    with running_store("--appendonly", "yes") as store:
        async with asyncio.TaskGroup() as group:
            # One after the other goes at its share of the calls; the last one stays to the end.
            shares = [calls * (n + 1) // (GOODBYES + 1) for n in range(GOODBYES)]
            lives = [
                group.create_task(
                    live(tmp_path_factory.mktemp("server"), store, fleet, partial(has_come, taken, share))
                )
                for share in [*shares, calls]
            ]
            await until(lambda: len(fleet.channels) == len(lives), what="all servers", within_s=60)
            await Gateway(fleet.some(0)).open_account(OPENING)
            for number in range(WORKERS):
                group.create_task(take_all(fleet, f"w{number}", calls // WORKERS, taken))
        held = {name for name in taken if store.command("EXISTS", f"hg:{{lab/acme}}:h:{name}")}
        assert held == set(taken)
        assert len(taken) == calls // WORKERS * WORKERS
        due = store.command("ZCARD", "hg:{lab/acme}:due")
        assert due == len(taken), "a call was taken twice"
        assert broken_rules(snapshot(store)) == []
    figure(f"{GOODBYES + 1} servers left, 0 of {len(taken):,} calls lost, {fleet.resent} sent again")
