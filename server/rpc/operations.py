"""Many operations in one call: each answered as if it were alone, those on one hold in the order received."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from google.rpc.status_pb2 import Status
from quota.v1 import quota_service_pb2 as quota

from server.access import entry
from server.domain.errors import HoldgateError, InvalidRequestError
from server.rpc import errors
from server.rpc.calls import tell, tell_failure
from server.rpc.denials import Denied

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

MAX_OPERATIONS: Final = 256
"""Most operations in a Batch."""

MAX_UNANSWERED: Final = 1024
"""Operations of a stream in work at once; the stream is not read while there are so many."""

NAMED_BY: Final = {"check_and_reserve": "request_id", "release_allocation": "allocation"}
"""Where an operation has the id of its hold, if not as `hold_id`; an allocation has its hold's unless it is named."""

METHODS: Final[Mapping[str, str]] = {
    field.name: f"{quota.DESCRIPTOR.services_by_name['QuotaService'].full_name}/{field.name.title().replace('_', '')}"
    for field in quota.Operation.DESCRIPTOR.fields
}
"""The method that does alone what an operation does among others, by the operation's field name."""

Answer = Callable[[Any, Any, float], Awaitable[None]]
"""A servicer's way to answer one request: fills the response in within some seconds; raises HoldgateError."""


class Operations:
    """Answers operations through the same methods that answer the calls alone.

    `answers` has them by the operation's field name.
    """

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    async def batch(
        self,
        operations: Sequence[quota.Operation],
        results: "RepeatedCompositeFieldContainer[quota.OperationResult]",
        within_s: float,
    ) -> None:
        """Adds one result per operation, in their order. Those on one hold share the time that there is."""
        if len(operations) > MAX_OPERATIONS:
            text = f"has {len(operations)} entries; at most {MAX_OPERATIONS} are allowed"
            raise InvalidRequestError.of("operations", text)
        chains: dict[object, list[tuple[quota.Operation, quota.OperationResult]]] = {}
        for index, operation in enumerate(operations):
            chains.setdefault(_hold_of(operation) or index, []).append((operation, results.add()))

        async def run(chain: Sequence[tuple[quota.Operation, quota.OperationResult]]) -> None:
            ends_s = monotonic() + within_s
            for operation, result in chain:
                await self.answer(operation, result, ends_s - monotonic())

        await asyncio.gather(*map(run, chains.values()))

    async def stream(
        self, requests: AsyncIterator[quota.StreamRequest], within_s: float
    ) -> AsyncIterator[quota.StreamResponse]:
        """Answers as they are ready, until the caller has closed its side and everything is answered."""
        work = _StreamWork(requests, lambda operation, result: self.answer(operation, result, within_s))
        reader = asyncio.create_task(work.read())
        try:
            while (response := await work.ready.get()) is not None:
                yield response
                work.places.release()
            await reader
        finally:
            reader.cancel()
            for task in work.running:
                task.cancel()
            await asyncio.gather(reader, *work.running, return_exceptions=True)

    async def answer(self, operation: quota.Operation, result: quota.OperationResult, within_s: float) -> None:
        """Fills in the answer to one operation, or how it failed."""
        name = operation.WhichOneof("operation")
        if name is None:
            _fail(result, errors.status_of(InvalidRequestError.of("operation", "is missing; name one")))
            return
        request = getattr(operation, name)
        try:
            entry.enter_operation(METHODS[name])
            await self._answers[name](request, getattr(result, name), within_s)
            getattr(result, name).SetInParent()
        except HoldgateError as error:
            tell(name, request, error)
            _fail(result, errors.status_of(error))
        except Denied as denial:
            _fail(result, denial.status)
        except Exception:  # noqa: BLE001  # as for a call alone: told, logged, and the neighbours unharmed
            _fail(result, errors.internal_status(tell_failure(name, request)))


class _StreamWork:
    """The operations of one stream: read, in work, ready to be sent. None in `ready` ends the stream."""

    def __init__(
        self,
        requests: AsyncIterator[quota.StreamRequest],
        answer: Callable[[quota.Operation, quota.OperationResult], Awaitable[None]],
    ) -> None:
        self._requests = requests
        self._answer = answer
        self._last_of: dict[object, asyncio.Task[None]] = {}
        self.ready: asyncio.Queue[quota.StreamResponse | None] = asyncio.Queue()
        self.places = asyncio.Semaphore(MAX_UNANSWERED)
        self.running: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        """Starts operations as they come, while there are places, until the caller has closed its side."""
        try:
            async for request in self._requests:
                await self.places.acquire()
                hold = _hold_of(request.operation)
                task = asyncio.create_task(self._run(request, self._last_of.get(hold)))
                self.running.add(task)
                if hold is not None:
                    self._last_of[hold] = task
                task.add_done_callback(partial(self._ended, hold))
            while self.running:
                await asyncio.wait(self.running)
        finally:
            self.ready.put_nowait(None)

    async def _run(self, request: quota.StreamRequest, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        response = quota.StreamResponse(sequence=request.sequence)
        await self._answer(request.operation, response.result)
        self.ready.put_nowait(response)

    def _ended(self, hold: object, done: asyncio.Task[None]) -> None:
        self.running.discard(done)
        if self._last_of.get(hold) is done:
            del self._last_of[hold]


def _fail(result: quota.OperationResult, status: Status) -> None:
    result.error.code = status.code
    result.error.message = status.message
    result.error.details = status.SerializeToString()


def _hold_of(operation: quota.Operation) -> tuple[str, str] | None:
    """What operations must not overtake each other about; None for those about no hold known to the caller. An
    allocation has its hold's id unless it was named.
    """
    name = operation.WhichOneof("operation")
    if name is None or name == "estimate":
        return None
    request = getattr(operation, name)
    hold_id = getattr(request, NAMED_BY.get(name, "hold_id"))
    return (request.tenant, hold_id) if hold_id else None  # a policy that is not named may be one that is
