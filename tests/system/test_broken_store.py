"""The store dies, freezes, or comes back empty while the server runs: it answers in time and needs no restart."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1.decision_pb2 import OUTCOME_GRANTED, OUTCOME_REFUSED

from tests.rpc.faults import Fault, fault_of
from tests.rpc.healths import health_turns
from tests.rpc.processes import ServerProcess, holdgate
from tests.store_state import broken_rules, snapshot
from tests.stores import CuttingProxy, RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, owner_of, serving
from tests.waiting import until_answered

SERVING: Final = HealthCheckResponse.SERVING
NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
DEADLINE_S: Final = 1.0
OPENING: Final = 10_000
CALLERS: Final = 50


class SlowProxy(CuttingProxy):
    """Every reply takes `delay_s` longer."""

    delay_s = 0.0

    async def _replies(self, source: asyncio.StreamReader, *ends: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            asyncio.get_running_loop().call_later(self.delay_s, ends[0].write, data)
        self._hang_up(*ends)


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        yield store


@asynccontextmanager
async def gateway_on(folder: Path, *flags: str) -> AsyncIterator[tuple[ServerProcess, aio.Channel, Gateway]]:
    """A server that serves, a connection to it, and an account with money."""
    async with serving(folder, *flags) as server, channels_to(server.address) as (channel,):
        await health_turns(channel, SERVING)
        gateway = Gateway(channel)
        await gateway.open_account(OPENING)
        yield server, channel, gateway


async def fault_in_time(gateway: Gateway, request_id: str) -> Fault:
    """The error of a reserve, which the server must send before the caller's deadline.

    An end that the client found by itself has no details, and `fault_of` fails.
    """
    return await fault_of(gateway.reserve(request_id, within_s=DEADLINE_S))


@pytest.mark.parametrize("blow", ["killed", "frozen"])
async def test_without_its_store_a_server_answers_in_time_and_recovers_with_it(
    tmp_path: Path, store: RunningStore, blow: str
) -> None:
    async with gateway_on(tmp_path, "--redis-url", store.url, "--store-timeout-ms", "200") as (_, channel, gateway):
        hold = await gateway.take("before")
        store.kill() if blow == "killed" else store.freeze()
        faults = await asyncio.gather(*(fault_in_time(gateway, f"during-{n}") for n in range(CALLERS)))
        assert {(fault.status, fault.reason) for fault in faults} == {(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")}
        assert all(fault.retry_after_ms for fault in faults)
        await health_turns(channel, NOT_SERVING)
        fault = await fault_of(gateway.settle(hold.hold_id, 3))
        assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        store.start() if blow == "killed" else store.thaw()
        await health_turns(channel, SERVING)
        await until_answered(lambda: gateway.settle(hold.hold_id, 3))
        # Each call of the outage may have taken its place or not; sent again, it has taken one.
        await asyncio.gather(*(until_answered(partial(gateway.take, f"during-{n}")) for n in range(CALLERS)))
        balance = await gateway.credits()
        assert (balance.held, balance.remaining) == (CALLERS * PRICE, OPENING - CALLERS * PRICE - 3)
        assert broken_rules(snapshot(store)) == []


@pytest.mark.parametrize("blow", ["killed", "frozen"])
async def test_without_its_own_store_a_server_answers_in_time_and_starts_another(tmp_path: Path, blow: str) -> None:
    flags = ("--store-timeout-ms", "200", "--fsync", "always")
    async with gateway_on(tmp_path, *flags) as (_, channel, gateway):
        hold = await gateway.take("before")
        first = owner_of(tmp_path)
        os.kill(first.store_pid, signal.SIGSTOP)
        try:
            fault = await fault_in_time(gateway, "during")
            assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        finally:
            os.kill(first.store_pid, signal.SIGKILL if blow == "killed" else signal.SIGCONT)
        if blow == "killed":
            await health_turns(channel, NOT_SERVING)
        await health_turns(channel, SERVING)
        assert (owner_of(tmp_path).store_pid == first.store_pid) == (blow == "frozen")
        await until_answered(lambda: gateway.settle(hold.hold_id, 3))
        await until_answered(lambda: gateway.take("during"))
        assert (await gateway.credits()).held == PRICE


async def test_a_call_that_needs_a_slow_store_twice_waits_no_longer_than_one_that_needs_it_once(
    tmp_path: Path, store: RunningStore
) -> None:
    proxy = SlowProxy(store)
    await proxy.start()
    async with gateway_on(tmp_path, "--redis-url", proxy.url, "--store-timeout-ms", "500") as (_, channel, gateway):
        await gateway.take("r-1")
        proxy.delay_s = 0.3
        assert (await gateway.poll()).outcome == OUTCOME_GRANTED
        assert (await fault_of(gateway.extend("r-1"))).reason == "STORE_UNAVAILABLE"
        assert (await fault_of(Gateway(channel, "unknown to the server").poll())).reason == "STORE_UNAVAILABLE"
    await proxy.stop()


async def test_an_emptied_store_sells_nothing_until_it_is_adopted_and_counts_on_meanwhile(tmp_path: Path) -> None:
    with running_store() as store:  # nothing in a file: a restart is a loss
        flags = ("--redis-url", store.url)
        async with gateway_on(tmp_path, *flags) as (server, channel, gateway):
            hold = await gateway.take("before")
            store.kill()
            await health_turns(channel, NOT_SERVING)
            store.start()
            await sells_nothing(gateway, server)
            said = await asyncio.to_thread(holdgate, "store", "adopt", *flags, "--data-dir", f"{tmp_path}/data")
            assert (said.returncode, said.stdout.startswith("adopted the store at unix://")) == (0, True), said
            await health_turns(channel, SERVING)
            await sells_again(gateway)
            assert (await fault_of(gateway.settle(hold.hold_id, 3))).reason == "HOLD_NOT_FOUND"


async def test_an_embedded_store_that_lost_its_files_is_adopted_while_the_server_runs(tmp_path: Path) -> None:
    async with gateway_on(tmp_path) as (server, channel, gateway):
        await gateway.take("before")
        shutil.rmtree(tmp_path / "data" / "appendonlydir")
        owner = owner_of(tmp_path)
        os.kill(owner.store_pid, signal.SIGKILL)
        await health_turns(channel, NOT_SERVING)
        await sells_nothing(gateway, server)
        data = ("--data-dir", f"{tmp_path}/data")
        refused = await asyncio.to_thread(holdgate, "store", "adopt", *data)
        assert (refused.returncode, f"HOLDGATE_REDIS_URL={owner.url}" in refused.stderr) == (1, True), refused
        said = await asyncio.to_thread(holdgate, "store", "adopt", *data, env={"HOLDGATE_REDIS_URL": owner.url})
        assert said.returncode == 0, said
        await health_turns(channel, SERVING)
        await sells_again(gateway)


async def sells_nothing(gateway: Gateway, server: ServerProcess) -> None:
    """Whatever has money in it waits for an operator; windows and pools go on."""
    async with asyncio.timeout(20):
        while (await fault_of(gateway.settle("before", 3))).reason == "STORE_UNAVAILABLE":
            pass  # it has not connected yet, or not yet found that it may send again
    fault = await fault_of(gateway.reserve("after"))
    assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_LOST")
    assert "holdgate store adopt" in fault.message
    assert "store.lost" in server.log()
    with_money = [
        gateway.credits(),
        gateway.settle("before", 3),
        gateway.release("before"),
        gateway.extend("before"),
        gateway.open_account(OPENING),
        gateway.grant("g-1", OPENING),
    ]
    assert [(await fault_of(call)).reason for call in with_money] == ["STORE_LOST"] * len(with_money)
    assert (await gateway.poll()).outcome == OUTCOME_GRANTED
    job = await gateway.start_job("job-1")
    assert job.outcome == OUTCOME_GRANTED
    assert (await gateway.release(job.hold_id)).applied


async def sells_again(gateway: Gateway) -> None:
    assert (await gateway.reserve("after")).outcome == OUTCOME_REFUSED  # what was bought before is gone
    await gateway.open_account(OPENING)
    await gateway.take("after")
    assert (await gateway.credits()).held == PRICE
