"""Many operations in one call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from grpc import aio
from quota.v1 import quota_service_pb2 as quota
from quota.v1.decision_pb2 import OUTCOME_GRANTED
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.rpc.operations import Operations

ASK = quota.CheckAndReserveRequest(action="poll", scope={"project": "p"})
OF_EACH_KIND: dict[str, Any] = {
    "settle": quota.SettleRequest(hold_id="h"),
    "release": quota.ReleaseRequest(hold_id="h"),
    "extend": quota.ExtendRequest(hold_id="h"),
    "estimate": quota.EstimateRequest(action="poll", scope={"project": "p"}),
    "release_allocation": quota.ReleaseAllocationRequest(allocation="h"),
}


@pytest.fixture
def stub(channel: aio.Channel) -> QuotaServiceStub:
    return QuotaServiceStub(channel)


async def test_operations_that_wait_for_each_other_share_the_time_of_the_call() -> None:
    """Otherwise a batch about one hold would take as long as its operations together may, each in its turn."""
    given: list[float] = []

    async def answer(_request: object, _response: object, within_s: float) -> None:
        given.append(within_s)

    batch = quota.BatchRequest(operations=[quota.Operation(release=quota.ReleaseRequest(hold_id="h"))] * 3)
    await Operations({"release": answer}).batch(batch.operations, quota.BatchResponse().results, 1.0)

    first, second, third = given
    assert 1.0 >= first > second > third > 0


async def test_a_hold_is_one_whether_or_not_its_policy_is_named() -> None:
    """Where there is one policy, its name may be left out: a settle must not overtake its reserve for that."""
    order: list[str] = []

    def answering(word: str, pauses: int) -> Callable[..., Awaitable[None]]:
        async def answer(*_words: object) -> None:
            for _ in range(pauses):
                await asyncio.sleep(0)
            order.append(word)

        return answer

    batch = quota.BatchRequest()
    batch.operations.add().extend.hold_id = "h"
    batch.operations.add().release.MergeFrom(quota.ReleaseRequest(hold_id="h", policy="credit-gate"))
    answers = {"extend": answering("extend", 5), "release": answering("release", 0)}
    await Operations(answers).batch(batch.operations, quota.BatchResponse().results, 1.0)

    assert order == ["extend", "release"]


async def test_an_operation_of_any_kind_leaves_its_neighbours_alone(stub: QuotaServiceStub) -> None:
    """Whether it fails or not, with or without an id."""
    kinds = {field.name for field in quota.Operation.DESCRIPTOR.fields}
    assert kinds == {"check_and_reserve", *OF_EACH_KIND}
    for kind, request in OF_EACH_KIND.items():
        request.tenant = "acme"
        batch = quota.BatchRequest()
        getattr(batch.operations.add(), kind).CopyFrom(request)
        getattr(batch.operations.add(), kind).SetInParent()
        batch.operations.add().check_and_reserve.CopyFrom(ASK)
        batch.operations[2].check_and_reserve.tenant = "acme"

        first, second, third = (await stub.Batch(batch)).results

        assert first.error.code in {0, 3, 5}, (kind, first)
        assert second.error.code == 3, (kind, second)
        assert third.check_and_reserve.decision.outcome == OUTCOME_GRANTED, kind
