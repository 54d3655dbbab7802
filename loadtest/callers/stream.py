"""One long-lived stream per connection, on which all operations travel."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count, cycle

import grpc
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import quota_service_pb2_grpc

from loadtest.callers.base import CallFailed


class Streams:
    """Carries operations by Stream. A stream that breaks fails what was under way and is opened anew."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._lines = cycle([_Line(channel) for channel in channels])

    async def carry(self, operation: quota.Operation, timeout_s: float) -> quota.OperationResult:
        """The operation's result; raises CallFailed when it was too late or its stream broke."""
        result = next(self._lines).send(operation)
        try:
            async with asyncio.timeout(timeout_s):
                return await result
        except TimeoutError:
            text = f"no answer on the stream within {timeout_s:g} s"
            raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None


class _Line:
    """One connection's stream: opened by the first operation, and again by the first after it broke."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stream = quota_service_pb2_grpc.QuotaServiceStub(channel).Stream
        self._sequence = count(1)
        self._awaited: dict[int, asyncio.Future[quota.OperationResult]] = {}
        self._outgoing: asyncio.Queue[quota.StreamRequest] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    def send(self, operation: quota.Operation) -> asyncio.Future[quota.OperationResult]:
        """Sends the operation; the future has its result, or raises CallFailed."""
        if self._reading is None or self._reading.done():
            self._awaited, self._outgoing = {}, asyncio.Queue()
            self._reading = asyncio.create_task(self._read(self._awaited, self._outgoing))
        number = next(self._sequence)
        result = self._awaited[number] = asyncio.get_running_loop().create_future()
        self._outgoing.put_nowait(quota.StreamRequest(sequence=number, operation=operation))
        return result

    async def _read(
        self,
        awaited: dict[int, asyncio.Future[quota.OperationResult]],
        outgoing: asyncio.Queue[quota.StreamRequest],
    ) -> None:
        failure = CallFailed(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
        try:
            async for response in self._stream(_requests(outgoing)):
                result = awaited.pop(response.sequence, None)
                if result is not None and not result.done():
                    result.set_result(response.result)
        except grpc.aio.AioRpcError as error:
            failure = CallFailed(error.code(), error.details() or "")
        finally:
            for result in awaited.values():
                if not result.done():
                    result.set_exception(failure)


async def _requests(outgoing: asyncio.Queue[quota.StreamRequest]) -> AsyncIterator[quota.StreamRequest]:
    while True:
        yield await outgoing.get()
