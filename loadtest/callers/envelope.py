"""Operations in envelopes: what a Batch and a Stream have in common."""

from typing import Final, Protocol

import grpc
from quota.v1 import quota_service_pb2 as quota

from loadtest.callers.base import CallFailed

_STATUSES: Final = {status.value[0]: status for status in grpc.StatusCode}


class Carrier(Protocol):
    """Takes an envelope to the server."""

    async def carry(self, operation: quota.Operation, timeout_s: float) -> quota.OperationResult:
        """The operation's result; raises CallFailed when it was lost on the way."""


class EnvelopeCaller:
    """Puts operations into envelopes for a carrier, and takes the answers out."""

    def __init__(self, carrier: Carrier) -> None:
        self._carry = carrier.carry

    async def reserve(self, request: quota.CheckAndReserveRequest, timeout_s: float) -> quota.CheckAndReserveResponse:
        """Asks for a decision."""
        result = await self._carry(quota.Operation(check_and_reserve=request), timeout_s)
        return _answered(result).check_and_reserve

    async def settle(self, request: quota.SettleRequest, timeout_s: float) -> quota.SettleResponse:
        """Charges a hold."""
        return _answered(await self._carry(quota.Operation(settle=request), timeout_s)).settle

    async def release(self, request: quota.ReleaseRequest, timeout_s: float) -> quota.ReleaseResponse:
        """Gives a hold back."""
        return _answered(await self._carry(quota.Operation(release=request), timeout_s)).release


def _answered(result: quota.OperationResult) -> quota.OperationResult:
    if result.WhichOneof("result") == "error":
        status = _STATUSES.get(result.error.code, grpc.StatusCode.UNKNOWN)
        raise CallFailed(status, result.error.message)
    return result
