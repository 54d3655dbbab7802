"""Faults: cases in which no decision was made, or an operation does not fit a hold's state.

A refusal is no fault; it is a value (`decision.Refusal`). Each class is one entry of the catalogue in
`protos/quota/v1/error_reason.proto`; `rpc.errors` gives it its gRPC status.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class FieldViolation(NamedTuple):
    """One bad field of a request: its path (`amounts[toknes]`) and what was expected."""

    field: str
    description: str


class HoldgateError(Exception):
    """A fault. `metadata` holds machine-readable details, such as stored totals."""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidRequestError(HoldgateError):
    """The request names something that cannot be; nothing was looked at."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{field}: {description}" for field, description in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidRequestError":
        """The error for a single bad field."""
        return cls([FieldViolation(field, description)])


class AccountNotFoundError(HoldgateError):
    """The tenant has no account and the policy names no default plan."""


class HoldNotFoundError(HoldgateError):
    """No hold or tombstone of that id belongs to this tenant."""


class IdReusedError(HoldgateError):
    """The id was used before with other content; `metadata["differs"]` names what differs."""


class HoldStateError(HoldgateError):
    """The operation does not fit the hold's state; metadata has `state` and the stored totals."""


class HoldExpiredError(HoldgateError):
    """The lease had ended; a hold is never resurrected."""


class TotalDecreasedError(HoldgateError):
    """A final total lies below an earlier report; metadata has the stored totals."""


class AccountChangedError(HoldgateError):
    """The account's version is not the expected one, or kept changing during planning."""


class StoreUnavailableError(HoldgateError):
    """The store cannot be reached or cannot take the write; the same request may be sent again."""


class StoreLostError(HoldgateError):
    """A store that was known came back empty; an operator must adopt it."""


class DeadlineError(HoldgateError):
    """The caller's deadline ended before the store answered."""


class OverloadedError(HoldgateError):
    """The server has as many calls in work, waiting for the store, or watching, as it takes; nothing was tried."""


class TooManyCellsError(HoldgateError):
    """The tenant has as many cells as one tenant may have."""


class TenantInUseError(HoldgateError):
    """The tenant has open holds and is not deleted; metadata has how many."""


class CorruptStateError(HoldgateError):
    """Stored data could not be read; nothing was changed."""


class PolicyRejectedError(HoldgateError):
    """A policy text is not a policy; the message names file, line and what was expected."""


class UnauthenticatedError(HoldgateError):
    """Nobody knows who calls."""


class PermissionDeniedError(HoldgateError):
    """The caller is known and may not do this; metadata has `caller`."""
