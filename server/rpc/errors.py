"""How a fault leaves the server: the one place that gives each domain error its gRPC status and details.

The details travel as a google.rpc.Status in `grpc-status-details-bin`. They are kept below the 8 KB at which
clients begin to drop metadata, however much a caller put into the request that was found bad.
"""

from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Never, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from quota.v1 import error_reason_pb2 as reasons

from server.domain import errors

DOMAIN: Final = "quota.v1"
"""The domain of every ErrorInfo."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailer that carries the serialized google.rpc.Status."""

MAX_MESSAGE_BYTES: Final = 600
"""Longest message; it travels twice, once percent-encoded to up to three times its length."""

MAX_DETAILS_BYTES: Final = 3000
"""Most bytes of field violations, and most bytes of metadata: base64 makes a third more of them."""

_TEXT_BYTES: Final = 400
"""Longest field name, description or metadata value."""


class Abortable(Protocol):
    """The part of a call's context by which it ends with an error."""

    def abort(
        self, code: StatusCode, details: str = ..., trailing_metadata: tuple[tuple[str, bytes], ...] = ...
    ) -> Coroutine[Any, Any, Never]:
        """Ends the call; raises an exception of the transport's own."""


class Mapped(NamedTuple):
    """What an error is on the wire. `retry_after_ms` is None where the same call would fail again."""

    status: StatusCode
    reason: reasons.ErrorReason.ValueType
    retry_after_ms: int | None = None


_CODES: Final = {code.value[0]: code for code in StatusCode}

INTERNAL: Final = Mapped(StatusCode.INTERNAL, reasons.ERROR_REASON_INTERNAL)
"""A defect of the server, or stored data that cannot be read."""

MAPPING: Final[Mapping[type[errors.HoldgateError], Mapped]] = MappingProxyType(
    {
        errors.InvalidRequestError: Mapped(StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_INVALID_REQUEST),
        errors.AccountNotFoundError: Mapped(StatusCode.NOT_FOUND, reasons.ERROR_REASON_ACCOUNT_NOT_FOUND),
        errors.HoldNotFoundError: Mapped(StatusCode.NOT_FOUND, reasons.ERROR_REASON_HOLD_NOT_FOUND),
        errors.IdReusedError: Mapped(StatusCode.ALREADY_EXISTS, reasons.ERROR_REASON_ID_REUSED),
        errors.HoldStateError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_HOLD_STATE),
        errors.HoldExpiredError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_HOLD_EXPIRED),
        errors.TotalDecreasedError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_TOTAL_DECREASED),
        errors.AccountChangedError: Mapped(StatusCode.ABORTED, reasons.ERROR_REASON_ACCOUNT_CHANGED, 50),
        errors.StoreUnavailableError: Mapped(StatusCode.UNAVAILABLE, reasons.ERROR_REASON_STORE_UNAVAILABLE, 1000),
        # Only an operator ends this one; a client that keeps asking should ask seldom.
        errors.StoreLostError: Mapped(StatusCode.UNAVAILABLE, reasons.ERROR_REASON_STORE_LOST, 30_000),
        errors.DeadlineError: Mapped(StatusCode.DEADLINE_EXCEEDED, reasons.ERROR_REASON_DEADLINE),
        # Not RESOURCE_EXHAUSTED, which a refusal ends with where its caller wants a status.
        errors.OverloadedError: Mapped(StatusCode.UNAVAILABLE, reasons.ERROR_REASON_OVERLOADED, 200),
        errors.TooManyCellsError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_TOO_MANY_CELLS),
        errors.TenantInUseError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_TENANT_IN_USE),
        errors.UnauthenticatedError: Mapped(StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_UNAUTHENTICATED),
        errors.PermissionDeniedError: Mapped(StatusCode.PERMISSION_DENIED, reasons.ERROR_REASON_PERMISSION_DENIED),
        errors.CorruptStateError: INTERNAL,
        errors.PolicyRejectedError: Mapped(StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_POLICY_REJECTED),
    }
)
"""Every class of fault; a test walks the classes so that none is left out."""


def mapped(error: errors.HoldgateError) -> Mapped:
    """What the error is on the wire."""
    return MAPPING.get(type(error), INTERNAL)


async def abort(context: Abortable, error: errors.HoldgateError) -> Never:
    """Ends the call with the error's status, message and details."""
    await _end(context, mapped(error).status, status_of(error))


async def abort_internal(context: Abortable, correlation_id: str) -> Never:
    """Ends the call for a defect of the server; what it was stands in the log under `correlation_id`."""
    await _end(context, INTERNAL.status, internal_status(correlation_id))


async def abort_with(context: Abortable, status: Status) -> Never:
    """Ends the call with a status that is complete."""
    await _end(context, _CODES[status.code], status)


def status_of(error: errors.HoldgateError) -> Status:
    """The error with its details."""
    return _status(mapped(error), error.message, _details(error))


def internal_status(correlation_id: str) -> Status:
    """A defect of the server."""
    text = f"the server failed; its log has the cause under correlation id {correlation_id}"
    return _status(INTERNAL, text, [_info(INTERNAL, {"correlation_id": correlation_id})])


def _status(outcome: Mapped, message: str, details: list[Message]) -> Status:
    status = Status(code=outcome.status.value[0], message=clipped(message, MAX_MESSAGE_BYTES))
    for detail in details:
        status.details.add().Pack(detail)
    return status


async def _end(context: Abortable, code: StatusCode, status: Status) -> Never:
    await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))


def _details(error: errors.HoldgateError) -> list[Message]:
    outcome = mapped(error)
    details: list[Message] = [_info(outcome, error.metadata)]
    if isinstance(error, errors.InvalidRequestError):
        details.append(_bad_request(error))
    if outcome.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(outcome.retry_after_ms)
        details.append(RetryInfo(retry_delay=delay))
    return details


def _info(outcome: Mapped, metadata: Mapping[str, str]) -> ErrorInfo:
    info = ErrorInfo(reason=reasons.ErrorReason.Name(outcome.reason), domain=DOMAIN)
    size = 0
    for key, value in metadata.items():
        text = clipped(value, _TEXT_BYTES)
        size += len(key.encode()) + len(text.encode())
        if size > MAX_DETAILS_BYTES:
            break
        info.metadata[key] = text
    return info


def _bad_request(error: errors.InvalidRequestError) -> BadRequest:
    bad = BadRequest()
    for field, description in error.violations:
        bad.field_violations.add(field=clipped(field, _TEXT_BYTES), description=clipped(description, _TEXT_BYTES))
        if bad.ByteSize() > MAX_DETAILS_BYTES:
            del bad.field_violations[-1]
            break
    return bad


def clipped(text: str, most_bytes: int) -> str:
    """The text, cut to `most_bytes` of UTF-8 with an ellipsis where it is longer."""
    data = text.encode()
    if len(data) <= most_bytes:
        return text
    ellipsis = "…"
    return data[: most_bytes - len(ellipsis.encode())].decode(errors="ignore") + ellipsis
