"""A server of several processes: one that dies is replaced, signals reach all, nobody is left behind."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

from grpc import StatusCode, aio

from tests.system.gateway import PRICE, Gateway
from tests.system.servers import POLICY, channels_to, kill, owner_of, runs, serving, workers_of
from tests.waiting import until

WORKERS: Final = 2
NOWHERE: Final = "unix:///nowhere/store.sock"
CONNECTIONS: Final = 16
"""Enough that, of a hundred thousand runs, one has them all at one worker."""


async def test_a_worker_that_is_killed_is_replaced_and_its_holds_live_on(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "--workers", str(WORKERS)) as server,
        channels_to(server.address, each=CONNECTIONS) as channels,
    ):
        gateways = [Gateway(channel) for channel in channels]
        await gateways[0].open_account(1000)
        await asyncio.gather(*(gateway.take(f"r-{n}") for n, gateway in enumerate(gateways)))
        victim, other = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(alive(workers_of(server))) == 1, what="the worker to be gone")
        settled = await asyncio.gather(*(settle_somehow(gateway, f"r-{n}") for n, gateway in enumerate(gateways)))
        assert sum(settled) == CONNECTIONS
        await until(lambda: len(alive(workers_of(server))) == WORKERS, what="another worker")
        assert other in workers_of(server)
        balance = await gateways[0].credits()
        assert (balance.held, balance.remaining) == (0, 1000 - CONNECTIONS)
        server.send(signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_status) == 0


async def test_of_many_workers_the_last_is_replaced_too(tmp_path: Path) -> None:
    """More than asyncio's pool has threads, in which none of them may wait for a worker's end."""
    many = (os.cpu_count() or 1) + 5
    async with serving(tmp_path, "--workers", str(many), "--redis-url", NOWHERE) as server:
        os.kill(workers_of(server)[-1], signal.SIGKILL)
        await until(lambda: "worker.died" in server.log(), what="the server to notice")
        await until(lambda: len(alive(workers_of(server))) == many, what="another worker")


async def test_a_server_that_shall_end_replaces_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, "--workers", str(WORKERS), "--drain-seconds", "0") as server:
        victim, _ = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: "worker.died" in server.log(), what="the server to notice")
        server.send(signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_status) == 0


async def test_workers_and_store_end_with_a_killed_server_and_the_state_stays(tmp_path: Path) -> None:
    flags = ("--workers", str(WORKERS), "--drain-seconds", "0")
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        gateway = Gateway(channel)
        await gateway.open_account(100)
        await gateway.take("r-1")
        left_behind = [*workers_of(server), owner_of(tmp_path).store_pid]
        kill(server)
        await until(lambda: not alive(left_behind), what="the workers and the store to end", within_s=10)
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        assert (await Gateway(channel).credits()).held == PRICE


async def test_a_reload_reaches_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.read_text())
    flags = ("--workers", str(WORKERS), "--policies", str(path))
    async with serving(tmp_path, *flags) as server, channels_to(server.address, each=CONNECTIONS) as channels:
        (old,) = await versions(channels)
        path.write_text(POLICY.read_text().replace("limit: 2,", "limit: 3,"))
        server.send(signal.SIGHUP)
        await until(lambda: server.log().count("policy.reloaded") == WORKERS, what="every worker to reload")
        (new,) = await versions(channels)
        assert new != old


async def versions(channels: list[aio.Channel]) -> set[str]:
    """The policy versions by which calls over these connections are decided."""
    return {decision.policy_version for decision in await asyncio.gather(*(Gateway(c).poll() for c in channels))}


async def settle_somehow(gateway: Gateway, hold_id: str) -> int:
    """Settles one credit, over a new connection where the old one's worker is gone; the credits charged."""
    async with asyncio.timeout(20):
        while True:
            try:
                settled = await gateway.settle(hold_id, 1)
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
            else:
                return settled.meters[0].used


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if runs(pid)]
