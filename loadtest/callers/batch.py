"""Many operations per call: what is asked in one turn of the event loop travels together."""

import asyncio
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import grpc
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import quota_service_pb2_grpc

from loadtest.callers.base import CallFailed


class _Waiting(NamedTuple):
    operation: quota.Operation
    timeout_s: float
    result: asyncio.Future[quota.OperationResult]


class Batches:
    """Carries operations by Batch, at most `most` in a message."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], most: int) -> None:
        self._batch = cycle([quota_service_pb2_grpc.QuotaServiceStub(channel).Batch for channel in channels])
        self._most = most
        self._waiting: list[_Waiting] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def carry(self, operation: quota.Operation, timeout_s: float) -> quota.OperationResult:
        """The operation's result; raises CallFailed when its batch failed as a whole."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[quota.OperationResult] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(_Waiting(operation, timeout_s, result))
        return await result

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), self._most):
            call = asyncio.create_task(self._call(waiting[start : start + self._most]))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, waiting: Sequence[_Waiting]) -> None:
        request = quota.BatchRequest(operations=[one.operation for one in waiting])
        try:
            response = await next(self._batch)(request, timeout=max(one.timeout_s for one in waiting))
            found = list(response.results)
            failure = CallFailed(grpc.StatusCode.UNKNOWN, f"{len(found)} results for {len(waiting)} operations")
        except grpc.aio.AioRpcError as error:
            found = []
            failure = CallFailed(error.code(), error.details() or "")
        for place, one in enumerate(waiting):
            if one.result.done():
                continue  # whoever asked is gone
            if len(found) == len(waiting):
                one.result.set_result(found[place])
            else:
                one.result.set_exception(failure)
