"""What is particular to each way that operations travel; what they share is tested in test_audit_finds_lies.py."""

import asyncio

import grpc
import pytest
from quota.v1 import quota_service_pb2 as quota

from loadtest.callers import CALLERS, CallFailed
from loadtest.target import reach
from server.reaching import Target
from tests.loadtest.fake_server import FakeServer, serving


def work(number: int, credits_wanted: int = 1) -> quota.CheckAndReserveRequest:
    return quota.CheckAndReserveRequest(
        tenant=f"t{number}", request_id=f"r{number}", action="work", amounts={"credits": credits_wanted}
    )


@pytest.mark.parametrize("via", CALLERS)
async def test_an_operation_that_fails_fails_alone_with_its_own_status(via: str) -> None:
    async with serving(FakeServer()) as target:
        channel = await reach(Target(target))
        caller = CALLERS[via]([channel], 32)
        unknown = quota.CheckAndReserveRequest(tenant="t", request_id="r", action="dance")

        good, bad = await asyncio.gather(caller.reserve(work(1), 2), caller.reserve(unknown, 2), return_exceptions=True)

        await channel.close()
    assert isinstance(good, quota.CheckAndReserveResponse)
    assert good.decision.hold_id == "r1"
    assert isinstance(bad, CallFailed)
    assert bad.status is grpc.StatusCode.INVALID_ARGUMENT
    assert not bad.unknown


async def test_what_is_asked_in_one_turn_travels_in_batches_of_the_given_size() -> None:
    fake = FakeServer()
    async with serving(fake) as target:
        channel = await reach(Target(target))
        caller = CALLERS["batch"]([channel], 4)

        answers = await asyncio.gather(*(caller.reserve(work(number), 2) for number in range(10)))

        await channel.close()
    assert [answer.decision.hold_id for answer in answers] == [f"r{number}" for number in range(10)]
    assert fake.calls["Batch"] == 3


async def test_a_stream_that_breaks_fails_what_was_under_way_and_is_opened_anew() -> None:
    fake = FakeServer()
    fake.lies.lost_answers["Stream"] = 1
    async with serving(fake) as target:
        channel = await reach(Target(target))
        caller = CALLERS["stream"]([channel], 1)

        with pytest.raises(CallFailed) as lost:
            await caller.reserve(work(1), 2)
        again = await caller.reserve(work(1), 2)

        await channel.close()
    assert lost.value.unknown
    assert again.decision.hold_id == "r1"
    assert fake.calls["Stream"] == 2


async def test_an_operation_that_gets_no_answer_on_a_stream_ends_in_time() -> None:
    class Mute(FakeServer):
        async def _result(self, operation: quota.Operation) -> quota.OperationResult:
            await asyncio.Event().wait()
            return await super()._result(operation)

    async with serving(Mute()) as target:
        channel = await reach(Target(target))
        caller = CALLERS["stream"]([channel], 1)

        with pytest.raises(CallFailed) as late:
            await caller.reserve(work(1), 0.05)

        await channel.close()
    assert late.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
