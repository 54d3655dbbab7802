"""One call, as its servicer sees it: the context that the methods of generated servicers are handed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Never, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from server.rpc import errors
from server.rpc.transports.asgi import metadata
from server.rpc.transports.asgi.framing import Event, Receive, Requests
from server.rpc.transports.asgi.metadata import Metadata
from server.rpc.transports.asgi.reply import Reply
from server.rpc.transports.asgi.status import CallFailed
from server.rpc.transports.base import UNREADABLE

_HEARING_S: Final = 0.2
"""How long a stream that is to end with an error is listened to."""

_UNREADABLE: Final = metadata.encoded([(errors.DETAILS_KEY, UNREADABLE.SerializeToString())])

Outgoing: TypeAlias = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Method:
    """A servicer's method, and how its messages are read and written."""

    behaviour: Callable[[Any, "Call"], Any]
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    takes_stream: bool
    gives_stream: bool


class Call:
    """What of `grpc.aio.ServicerContext` a servicer may use, on either transport."""

    __slots__ = ("_deadline_s", "_expired", "_method", "_reply", "_requests", "_scope", "_task", "_timer")

    def __init__(self, task: asyncio.Task[Any], method: Method, scope: Event, receive: Receive, reply: Reply) -> None:
        self._task = task
        self._method = method
        self._scope = scope
        self._reply = reply
        headers = dict(scope["headers"])
        encoding = headers.get(b"grpc-encoding")
        self._requests = Requests(receive, encoding)
        if encoding == b"gzip" and b"gzip" in headers.get(b"grpc-accept-encoding", b""):
            reply.compress()
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s: float | None = None
        if (timeout := headers.get(b"grpc-timeout")) is not None:
            left_s = metadata.timeout_s(timeout)
            self._deadline_s = monotonic() + left_s
            self._timer = task.get_loop().call_later(left_s, self._expire)

    # What the caller sent

    def invocation_metadata(self) -> Metadata:
        """The caller's metadata, without what belongs to the transport."""
        return metadata.decoded(self._scope["headers"])

    def peer(self) -> str:
        """The caller's address, as grpcio writes it."""
        client = self._scope.get("client")
        if client is None:
            return "unix:"
        host, port = client
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS says about the caller, by grpcio's names; empty without TLS."""
        return metadata.tls_facts(self._scope)

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, never below 0; None when the caller set none."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - monotonic())

    async def read(self) -> Any:  # noqa: ANN401  # the method's own request type, or grpcio's end marker
        """The next request of a stream; `grpc.aio.EOF` after the last."""
        message = await self._requests.next()
        return aio.EOF if message is None else self._request(message)

    # What goes back

    async def send_initial_metadata(self, initial_metadata: Outgoing) -> None:
        """Sends the headers now, with these among them."""
        self._reply.initial += metadata.encoded(initial_metadata)
        await self._reply.start()

    def set_trailing_metadata(self, trailing_metadata: Outgoing) -> None:
        """Metadata that travels with the status."""
        self._reply.trailing = metadata.encoded(trailing_metadata)

    def set_code(self, code: StatusCode) -> None:
        """The status that the call ends with, if nothing else ends it."""
        self._reply.code = code

    def code(self) -> StatusCode:
        """The status that the call was given."""
        return self._reply.code

    def set_details(self, details: str) -> None:
        """The message beside the status."""
        self._reply.message = details

    async def write(self, message: Any) -> None:  # noqa: ANN401  # the method's own response type
        """Sends one response of a stream; returns when there is room for the next."""
        await self._reply.write(self._method.serialize(message))

    async def abort(self, code: StatusCode, details: str = "", trailing_metadata: Outgoing = ()) -> Never:
        """Ends the call with an error; what it raises is not to be caught."""
        self._reply.code = code
        self._reply.message = details
        if trailing_metadata:
            self._reply.trailing = metadata.encoded(trailing_metadata)
        raise aio.AbortError

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call as `abort` does."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    # How it ends

    def add_done_callback(self, callback: Callable[["Call"], object]) -> None:
        """Calls `callback(context)` soon after the call has ended."""
        self._task.add_done_callback(lambda _task: callback(self))

    def cancelled(self) -> bool:
        """Whether the caller went away, or its deadline passed."""
        return self._task.cancelling() > 0

    def done(self) -> bool:
        """Whether the status is on its way, or nobody is there to take it."""
        return self._reply.ended or self._task.done()

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    # For the application

    async def answer(self) -> bytes | None:
        """Has the servicer answer; the only response, which is still to be sent, or None where there is none.

        Raises what the servicer raises, and CallFailed.
        """
        method = self._method
        try:
            argument = self._stream() if method.takes_stream else self._request(await self._requests.only())
            outcome = method.behaviour(argument, self)
            if method.gives_stream:
                await self._write_all(outcome)
                return None
            response = await outcome
            return method.serialize(response) if self._reply.code is StatusCode.OK else None
        except aio.AbortError:
            if method.takes_stream:
                await self._hear_out()
            raise
        except asyncio.CancelledError as error:
            if self._expired and self._task.cancelling() == 1:
                raise CallFailed(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from error
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _hear_out(self) -> None:
        """Waits a moment for the caller to end its side: h2corn cuts a stream off whose request it has not read to its
        end, and the status with it.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEARING_S):
                await self._requests.skip()

    async def _stream(self) -> AsyncIterator[Any]:
        while (message := await self._requests.next()) is not None:
            yield self._request(message)

    def _request(self, message: bytes) -> Any:  # noqa: ANN401  # the method's own request type
        try:
            return self._method.deserialize(message)
        except DecodeError as error:
            self._reply.trailing = _UNREADABLE
            raise CallFailed(StatusCode.INVALID_ARGUMENT, UNREADABLE.message) from error

    async def _write_all(self, outcome: Any) -> None:  # noqa: ANN401  # a generator, or a coroutine that calls write
        if not hasattr(outcome, "__aiter__"):
            await outcome
            return
        async with aclosing(outcome) as responses:
            async for response in responses:
                await self._reply.write(self._method.serialize(response))
