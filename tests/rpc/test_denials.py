"""Refusals as a status, for callers who ask for one."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio
from grpc_status import rpc_status
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub


def ask(
    tenant: str, action: str = "poll", units: int = 0, *, as_status: bool = True
) -> quota_service_pb2.CheckAndReserveRequest:
    amounts = {"credits": units} if units else {}
    scope = {"project": "p"}
    return quota_service_pb2.CheckAndReserveRequest(
        tenant=tenant, action=action, scope=scope, amounts=amounts, deny_as_status=as_status
    )


async def denied(stub: QuotaServiceStub, request: quota_service_pb2.CheckAndReserveRequest) -> Status:
    with pytest.raises(aio.AioRpcError) as raised:
        await stub.CheckAndReserve(request)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status: Status | None = rpc_status.from_call(raised.value)  # type: ignore[arg-type]  # it has all that is read
    assert status is not None
    return status


def unpacked(status: Status) -> tuple[QuotaFailure, ErrorInfo, RetryInfo | None]:
    failure, info, retry = QuotaFailure(), ErrorInfo(), RetryInfo()
    found = [type(into) for detail in status.details for into in (failure, info, retry) if detail.Unpack(into)]
    assert len(found) == len(status.details)
    return failure, info, retry if RetryInfo in found else None


async def test_waiting_helps_where_a_window_blocks(quota: QuotaServiceStub, tenant: str) -> None:
    for _ in range(5):
        await quota.CheckAndReserve(ask(tenant))
    failure, info, retry = unpacked(await denied(quota, ask(tenant)))
    (violation,) = failure.violations
    assert (violation.subject, violation.quota_id, violation.quota_metric) == ("tenant:acme", "rpm", "requests")
    assert violation.quota_value == 5
    assert retry is not None
    assert retry.retry_delay.ToMilliseconds() == 60_000
    assert (info.reason, info.domain, info.metadata["retry_after_ms"]) == ("SLOW_DOWN", "quota.v1", "60000")


async def test_without_money_there_is_no_hint_to_wait_and_every_blocker_is_named(
    quota: QuotaServiceStub, tenant: str
) -> None:
    for _ in range(5):
        await quota.CheckAndReserve(ask(tenant))
    failure, info, retry = unpacked(await denied(quota, ask(tenant, "work", units=101)))
    assert [violation.quota_id for violation in failure.violations] == ["rpm", "credits"]
    assert info.reason == "INSUFFICIENT_CREDITS"
    assert retry is None


async def test_whoever_does_not_ask_for_it_gets_an_answer(quota: QuotaServiceStub, tenant: str) -> None:
    answer = await quota.CheckAndReserve(ask(tenant, "work", units=101, as_status=False))
    assert answer.decision.outcome == decided.OUTCOME_REFUSED


async def test_in_a_batch_it_is_the_operations_own_error(quota: QuotaServiceStub, tenant: str) -> None:
    operation = quota_service_pb2.Operation(check_and_reserve=ask(tenant, "work", units=101))
    answer = await quota.Batch(quota_service_pb2.BatchRequest(operations=[operation]))
    error = answer.results[0].error
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert unpacked(Status.FromString(error.details))[1].reason == "INSUFFICIENT_CREDITS"
