"""How operations travel: one seam, whatever carries them."""

from typing import Final, Protocol

import grpc
from quota.v1 import quota_service_pb2 as quota

_DEFINITE: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""After these the operation is known to have changed nothing; after others it may have."""


class CallFailed(Exception):
    """An operation ended with an error status."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message

    @property
    def unknown(self) -> bool:
        """Whether the operation may have taken effect all the same."""
        return self.status not in _DEFINITE


class Caller(Protocol):
    """Carries operations to the server and answers back. Each method raises CallFailed."""

    async def reserve(self, request: quota.CheckAndReserveRequest, timeout_s: float) -> quota.CheckAndReserveResponse:
        """Asks for a decision."""

    async def settle(self, request: quota.SettleRequest, timeout_s: float) -> quota.SettleResponse:
        """Charges a hold."""

    async def release(self, request: quota.ReleaseRequest, timeout_s: float) -> quota.ReleaseResponse:
        """Gives a hold back."""
