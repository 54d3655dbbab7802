"""SIGTERM and SIGHUP in the midst of traffic."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1.decision_pb2 import OUTCOME_GRANTED, OUTCOME_REFUSED

from tests.rpc.healths import health_turns
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import POLICY, channels_to, owner_of, runs, serving
from tests.waiting import until

SERVING: Final = HealthCheckResponse.SERVING
NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
WORKERS: Final = 8
OPENING: Final = 10_000_000
SOME: Final = 100


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_server_that_goes_answers_all_that_still_comes_until_its_callers_have_left(
    tmp_path: Path, transport: str
) -> None:
    async with (
        serving(tmp_path, "--transport", transport, "--drain-seconds", "60") as server,
        channels_to(server.address, each=WORKERS) as channels,
        asyncio.TaskGroup() as crew,
    ):
        await health_turns(channels[0], SERVING)
        await Gateway(channels[0]).open_account(OPENING)
        answered: list[str] = []
        left = asyncio.Event()
        work = [
            crew.create_task(take_until(left.is_set, Gateway(c), f"w{n}", answered)) for n, c in enumerate(channels)
        ]
        await more_of(answered, SOME)
        server.send(signal.SIGTERM)
        await health_turns(channels[0], NOT_SERVING)
        await more_of(answered, SOME)
        left.set()  # as a balancer does that has seen NOT_SERVING
        await asyncio.gather(*work)
        server.send(signal.SIGTERM)  # nobody is left to wait for
        assert await asyncio.to_thread(server.exit_status) == 0
        assert not runs(owner_of(tmp_path).store_pid)


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_server_ends_owing_nobody_an_answer(tmp_path: Path, transport: str) -> None:
    """Callers that never look at health are cut off between two calls: what was taken, they were told."""
    answered: list[str] = []
    async with (
        serving(tmp_path, "--transport", transport, "--drain-seconds", "0") as server,
        channels_to(server.address, each=WORKERS) as channels,
        asyncio.TaskGroup() as crew,
    ):
        await Gateway(channels[0]).open_account(OPENING)
        work = [
            crew.create_task(take_until(lambda: False, Gateway(c), f"w{n}", answered)) for n, c in enumerate(channels)
        ]
        await more_of(answered, SOME)
        server.send(signal.SIGTERM)
        endings = await asyncio.gather(*work)
        assert set(endings) <= {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}  # gRPC's words for a server that went
        assert await asyncio.to_thread(server.exit_status) == 0
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        assert (await Gateway(channels[0]).credits()).held == len(answered) * PRICE


async def test_a_reload_changes_decisions_for_a_good_policy_and_never_for_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.read_text())
    async with (
        serving(tmp_path, "--policies", str(path)) as server,
        channels_to(server.address, each=WORKERS) as channels,
        asyncio.TaskGroup() as crew,
    ):
        gateway = Gateway(channels[0], "busy")
        first = (await gateway.start_job("j-1")).policy_version
        await Gateway(channels[0]).open_account(OPENING)
        answered: list[str] = []
        over = asyncio.Event()
        for number, channel in enumerate(channels):
            crew.create_task(take_until(over.is_set, Gateway(channel), f"w{number}", answered))

        text = POLICY.read_text().splitlines()
        (line,) = [number for number, words in enumerate(text, start=1) if "id: jobs" in words]
        path.write_text(POLICY.read_text().replace("limit: 2,", "limit: two,"))
        server.send(signal.SIGHUP)
        await until(lambda: "policy.rejected" in server.log(), what="the rejection")
        assert f"{path}:{line}: " in server.log()
        second_job = await gateway.start_job("j-2")
        assert (second_job.outcome, second_job.policy_version) == (OUTCOME_GRANTED, first)
        assert (await gateway.start_job("j-3")).outcome == OUTCOME_REFUSED

        path.write_text(POLICY.read_text().replace("limit: 2,", "limit: 3,"))
        server.send(signal.SIGHUP)
        await until(lambda: "policy.reloaded" in server.log(), what="the reload")
        third_job = await gateway.start_job("j-3")
        assert third_job.outcome == OUTCOME_GRANTED
        assert third_job.policy_version != first
        assert (await gateway.release("j-1")).applied
        await more_of(answered, SOME)
        over.set()


async def take_until(over: Callable[[], bool], gateway: Gateway, name: str, answered: list[str]) -> StatusCode:
    """Takes one piece of work after the other, each granted; OK, or how the first that failed ended."""
    number = 0
    while not over():
        number += 1
        try:
            answered.append((await gateway.take(f"{name}-{number}")).hold_id)
        except aio.AioRpcError as error:
            return error.code()
    return StatusCode.OK


async def more_of(answered: list[str], more: int) -> None:
    enough = len(answered) + more
    await until(lambda: len(answered) >= enough, what=f"{more} answers more")
