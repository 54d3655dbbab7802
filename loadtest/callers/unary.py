"""One call per operation, spread over the connections in turn."""

from collections.abc import Sequence
from itertools import cycle

import grpc
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import quota_service_pb2_grpc

from loadtest.callers.base import CallFailed


class UnaryCaller:
    """Uses the unary methods of QuotaService."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        stubs = [quota_service_pb2_grpc.QuotaServiceStub(channel) for channel in channels]
        self._reserve = cycle([stub.CheckAndReserve for stub in stubs])
        self._settle = cycle([stub.Settle for stub in stubs])
        self._release = cycle([stub.Release for stub in stubs])

    async def reserve(self, request: quota.CheckAndReserveRequest, timeout_s: float) -> quota.CheckAndReserveResponse:
        """Asks for a decision."""
        try:
            return await next(self._reserve)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error

    async def settle(self, request: quota.SettleRequest, timeout_s: float) -> quota.SettleResponse:
        """Charges a hold."""
        try:
            return await next(self._settle)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error

    async def release(self, request: quota.ReleaseRequest, timeout_s: float) -> quota.ReleaseResponse:
        """Gives a hold back."""
        try:
            return await next(self._release)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error
