"""Every fault has its status and reason, and its details stay small enough to arrive."""

from collections.abc import Iterator
from typing import Any, Never

import pytest
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from quota.v1.error_reason_pb2 import ErrorReason

from server.domain import errors as faults
from server.domain.errors import FieldViolation, HoldgateError, HoldStateError, InvalidRequestError
from server.rpc import errors
from tests.rpc.faults import Fault, read

CLIENTS_DROP_METADATA_BYTES = 8192


class EndedError(Exception):
    """What a transport raises to end a call."""


class RecordingContext:
    """A transport that only remembers how the call ended."""

    ended: tuple[StatusCode, str, tuple[tuple[str, bytes], ...]]

    async def abort(
        self, code: StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> Never:
        self.ended = (code, details, trailing_metadata)
        raise EndedError

    def fault(self) -> Fault:
        code, message, ((key, details),) = self.ended
        assert key == "grpc-status-details-bin"
        fault = read(code, Status.FromString(details))
        assert fault.message == message
        return fault

    def metadata_bytes(self) -> int:
        """Roughly what the trailers cost on the wire: the message percent-encoded, the details in base64."""
        _, message, ((_, details),) = self.ended
        plain = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in message.encode())
        return plain + len(details) * 4 // 3


async def ended_with(error: HoldgateError) -> RecordingContext:
    context = RecordingContext()
    with pytest.raises(EndedError):
        await errors.abort(context, error)
    return context


def subclasses(kind: type[HoldgateError]) -> Iterator[type[HoldgateError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_kind_of_fault_has_a_status() -> None:
    assert set(subclasses(HoldgateError)) == set(errors.MAPPING)


def test_every_reason_of_the_catalogue_is_given_by_some_fault() -> None:
    given = {mapped.reason for mapped in errors.MAPPING.values()}
    assert given == set(ErrorReason.values()) - {ErrorReason.Value("ERROR_REASON_UNSPECIFIED")}


EXPECTED: dict[type[HoldgateError], tuple[StatusCode, str]] = {
    faults.InvalidRequestError: (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    faults.AccountNotFoundError: (StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
    faults.HoldNotFoundError: (StatusCode.NOT_FOUND, "HOLD_NOT_FOUND"),
    faults.IdReusedError: (StatusCode.ALREADY_EXISTS, "ID_REUSED"),
    faults.HoldStateError: (StatusCode.FAILED_PRECONDITION, "HOLD_STATE"),
    faults.HoldExpiredError: (StatusCode.FAILED_PRECONDITION, "HOLD_EXPIRED"),
    faults.TotalDecreasedError: (StatusCode.FAILED_PRECONDITION, "TOTAL_DECREASED"),
    faults.AccountChangedError: (StatusCode.ABORTED, "ACCOUNT_CHANGED"),
    faults.StoreUnavailableError: (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    faults.StoreLostError: (StatusCode.UNAVAILABLE, "STORE_LOST"),
    faults.DeadlineError: (StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
    faults.OverloadedError: (StatusCode.UNAVAILABLE, "OVERLOADED"),
    faults.TooManyCellsError: (StatusCode.FAILED_PRECONDITION, "TOO_MANY_CELLS"),
    faults.CorruptStateError: (StatusCode.INTERNAL, "INTERNAL"),
    faults.PolicyRejectedError: (StatusCode.FAILED_PRECONDITION, "POLICY_REJECTED"),
}
MAY_BE_SENT_AGAIN = {StatusCode.UNAVAILABLE, StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
async def test_a_fault_arrives_with_its_status_reason_and_metadata(kind: type[HoldgateError]) -> None:
    error: Any = kind([]) if kind is InvalidRequestError else kind("what is wrong", {"state": "SETTLED"})
    fault = (await ended_with(error)).fault()
    assert (fault.status, fault.reason) == EXPECTED[kind]
    assert fault.message == error.message
    assert fault.metadata == error.metadata
    assert (fault.retry_after_ms is not None) == (fault.status in MAY_BE_SENT_AGAIN)


async def test_each_bad_field_is_named_with_what_was_expected() -> None:
    violations = [FieldViolation("tenant", "must not be empty"), FieldViolation("amounts[x]", "is -1")]
    fault = (await ended_with(InvalidRequestError(violations))).fault()
    assert fault.violations == {"tenant": "must not be empty", "amounts[x]": "is -1"}


@pytest.mark.parametrize("letter", ["x", "ü", "語", "%"])
async def test_details_stay_below_what_clients_accept_whatever_the_request_held(letter: str) -> None:
    endless = letter * 100_000
    many = InvalidRequestError([FieldViolation(f"scope[{number}{endless}]", endless) for number in range(300)])
    context = await ended_with(many)
    assert context.metadata_bytes() < CLIENTS_DROP_METADATA_BYTES
    assert context.fault().violations
    totals = HoldStateError(endless, {f"used.{number}{letter * 50}": endless for number in range(300)})
    context = await ended_with(totals)
    assert context.metadata_bytes() < CLIENTS_DROP_METADATA_BYTES
    assert context.fault().metadata


def test_a_short_text_is_left_alone_and_a_long_one_is_cut_between_characters() -> None:
    assert errors.clipped("abc", 3) == "abc"
    assert errors.clipped("abcdefgh", 6) == "abc…"
    assert errors.clipped("ääää", 6) == "ä…"
