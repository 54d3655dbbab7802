"""The standard decision: that its limits are real, and that a wrong answer is not taken for a cheap one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks import enforced, processes
from benchmarks.empty_call import ASGI, GRPC_AIO
from benchmarks.gateway import Gateway
from benchmarks.http2 import Connection
from benchmarks.standard import TAKEN, Asking, WrongAnswer, tenants
from benchmarks.store_calls import watched
from benchmarks.traffic import connected, unary
from benchmarks.travel import RESERVE, Batches, Streamed, Unary, create


async def test_each_of_the_five_limits_refuses_alone(tmp_path: Path) -> None:
    assert len(TAKEN) == 5

    await enforced.check(tmp_path)


@pytest.mark.parametrize("limit", ["project-requests", "jobs"])
async def test_a_limit_that_does_not_refuse_is_found(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = tmp_path / "lax.yaml"
    lax.write_text(processes.POLICY.read_text().replace(f"id: {limit}\n", f"id: {limit}\n    shadow: true\n"))
    monkeypatch.setattr(processes, "POLICY", lax)

    with pytest.raises(WrongAnswer, match=limit):
        await enforced.check(tmp_path)


@pytest.fixture
async def connections(tmp_path: Path) -> AsyncIterator[list[Connection]]:
    with processes.store(tmp_path) as behind, processes.holdgate(tmp_path, behind) as server:
        async with connected(server.address, 2) as made:
            await create(made, tenants(10))
            yield made


async def test_operations_are_granted_and_settled_whichever_way_they_travel(connections: list[Connection]) -> None:
    asking = Asking(tenants(10))

    for way in (Unary(connections), Batches(connections), Streamed(connections[0])):
        asks = asking.take(100)
        await way.reserve(asks)
        await way.settle(asks)


async def test_an_answer_that_is_no_first_grant_is_wrong(connections: list[Connection]) -> None:
    asks = Asking(tenants(1)).take(1)

    for way in (Unary(connections), Batches(connections), Streamed(connections[0])):
        with pytest.raises(WrongAnswer):
            await way.settle(asks)
    await Unary(connections).reserve(asks)
    for way in (Unary(connections), Batches(connections), Streamed(connections[0])):
        with pytest.raises(WrongAnswer, match="replayed"):
            await way.reserve(asks)


async def test_without_a_transport_too_an_answer_that_is_no_first_grant_is_wrong(tmp_path: Path) -> None:
    with processes.store(tmp_path) as behind:
        async with watched(behind.url) as calls:
            gateway = Gateway(calls)
            await gateway.create(tenants(1))
            asks = Asking(tenants(1)).take(1)
            await gateway.reserve(asks)

            with pytest.raises(WrongAnswer):
                await gateway.reserve(asks)


async def test_the_yardstick_gets_the_very_calls_that_the_engine_made(tmp_path: Path) -> None:
    with processes.store(tmp_path) as behind:
        async with watched(behind.url) as calls:
            gateway = Gateway(calls)
            await gateway.create(tenants(3))
            asks = Asking(tenants(3)).take(3)
            await gateway.reserve(asks)
            calls.watch()
            await gateway.settle(asks)

            taken = calls.taken()

            for ask, call in zip(asks, taken, strict=True):
                assert any(ask.request_id.encode() in key for key in call.keys)
            await calls.nothing(taken)
            assert calls.taken() == []


async def test_messages_wider_than_any_window_arrive_whole(tmp_path: Path) -> None:
    with processes.empty_call(tmp_path, GRPC_AIO, 300_000) as server:
        async with connected(server.address, 1) as made:
            answers = await unary(made, RESERVE, [bytes(400_000)] * 3, 2)

    assert [len(answer) for answer in answers] == [300_000] * 3


async def test_a_call_that_ends_with_an_error_is_no_answer(tmp_path: Path) -> None:
    with processes.empty_call(tmp_path, GRPC_AIO, 1) as server:
        async with connected(server.address, 1) as made:
            with pytest.raises(WrongAnswer, match="1 of 1 calls"):
                await unary(made, b"/quota.v1.QuotaService/Unknown", [b""], 1)


async def test_what_fails_while_processes_run_ends_with_their_last_words(tmp_path: Path) -> None:
    with pytest.raises(WrongAnswer) as failed, processes.store(tmp_path):
        raise WrongAnswer

    (note,) = failed.value.__notes__
    assert "Ready to accept connections" in note


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    with processes.store(tmp_path) as behind, pytest.raises(processes.NotStarted, match="--workers"):
        processes.holdgate(tmp_path, behind, "--workers", "0").__enter__()


async def test_calls_beyond_what_a_server_takes_at_once_wait_and_are_answered(tmp_path: Path) -> None:
    with processes.empty_call(tmp_path, ASGI, 1) as server:
        async with connected(server.address, 1) as made:
            assert len(await unary(made, RESERVE, [b""] * 3000, 1500)) == 3000
