"""Reading an error as a client does: status, reason, metadata, field violations, retry delay."""

from collections.abc import Awaitable, Mapping
from typing import NamedTuple

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio

DETAILS_KEY = "grpc-status-details-bin"


class Fault(NamedTuple):
    """One error as it reached the client; the retry delay is None where there is none."""

    status: StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str]
    violations: Mapping[str, str]
    retry_after_ms: int | None


async def fault_of(call: Awaitable[object]) -> Fault:
    """The error that a call must end with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    details = trailers[DETAILS_KEY]
    assert isinstance(details, bytes)
    status = Status.FromString(details)
    assert status.code == caught.value.code().value[0]
    assert status.message == caught.value.details()
    return read(caught.value.code(), status)


def read(code: StatusCode, status: Status) -> Fault:
    """What the details of an error say."""
    info = ErrorInfo()
    violations: dict[str, str] = {}
    retry_after_ms = None
    for detail in status.details:
        match unpacked(detail):
            case ErrorInfo() as info:
                assert info.domain == "quota.v1"
            case BadRequest() as bad:
                violations = {violation.field: violation.description for violation in bad.field_violations}
            case RetryInfo() as retry:
                retry_after_ms = retry.retry_delay.ToMilliseconds()
    reason = info.reason.removeprefix("ERROR_REASON_")
    return Fault(code, status.message, reason, dict(info.metadata), violations, retry_after_ms)


def unpacked(detail: Any) -> ErrorInfo | BadRequest | RetryInfo:
    for kind in (ErrorInfo, BadRequest, RetryInfo):
        message = kind()
        if detail.Unpack(message):
            return message
    raise AssertionError(f"a detail of unexpected type {detail.type_url}")
