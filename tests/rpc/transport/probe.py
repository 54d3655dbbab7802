"""A service with a method for each thing that a transport has to do, and stubs for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode, aio

SERVICE: Final = "probe.Probe"
FLOOD_MESSAGE_BYTES: Final = 64 * 1024
FLOOD_MESSAGES: Final = 1024

Context = aio.ServicerContext[StringValue, StringValue]
Stream = AsyncIterator[StringValue]


class Probe:
    """What the methods saw; `waiting` and so on are counts of the calls of Wait and WaitMidway."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.ended = 0
        self.flooded = 0
        self.flooding = True
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.peer = ""
        self.auth: dict[str, list[bytes]] = {}

    async def Echo(self, request: StringValue, _context: Context) -> StringValue:
        return request

    async def Metadata(self, _request: StringValue, context: Context) -> StringValue:
        """Sends the caller's x-initial… back as initial metadata, and x-trailing… as trailing metadata."""
        self.metadata = tuple(context.invocation_metadata() or ())
        self.peer = context.peer()
        self.auth = {key: list(values) for key, values in context.auth_context().items()}
        await context.send_initial_metadata(tuple(pair for pair in self.metadata if pair[0].startswith("x-initial")))
        context.set_trailing_metadata(tuple(pair for pair in self.metadata if pair[0].startswith("x-trailing")))
        return StringValue()

    async def Fail(self, request: StringValue, context: Context) -> StringValue:
        """Aborts with the code and message of "CODE:message"."""
        code, _, message = request.value.partition(":")
        await context.abort(StatusCode[code], message, (("x-detail-bin", b"\x00\xff"), ("x-detail", "text")))

    async def FailWithStatus(self, request: StringValue, context: Context) -> StringValue:
        await context.abort_with_status(_Status(StatusCode.DATA_LOSS, request.value, (("x-detail", "text"),)))

    async def SetCode(self, request: StringValue, context: Context) -> StringValue:
        context.set_code(StatusCode.FAILED_PRECONDITION)
        context.set_details(request.value)
        return StringValue(value="is not sent")

    async def Crash(self, _request: StringValue, _context: Context) -> StringValue:
        raise RuntimeError("of the inside of the server")

    async def GiveUp(self, _request: StringValue, _context: Context) -> StringValue:
        """Ends as cancelled, though nobody cancelled it."""
        raise asyncio.CancelledError

    async def Remaining(self, _request: StringValue, context: Context) -> StringValue:
        return StringValue(value=str(context.time_remaining()))

    async def Wait(self, request: StringValue, context: Context) -> StringValue:
        """Answers when `release` is set."""
        context.add_done_callback(self._ended)  # type: ignore[arg-type]  # the stubs want a class of their own
        await self._wait()
        return request

    async def Count(self, request: StringValue, _context: Context) -> Stream:
        for number in range(int(request.value)):
            yield StringValue(value=str(number))

    async def Write(self, request: StringValue, context: Context) -> None:
        """As Count, by the context's write."""
        for number in range(int(request.value)):
            await context.write(StringValue(value=str(number)))

    async def FailMidway(self, _request: StringValue, context: Context) -> Stream:
        yield StringValue(value="first")
        await context.abort(StatusCode.ABORTED, "midway")

    async def WaitMidway(self, _request: StringValue, _context: Context) -> Stream:
        yield StringValue(value="first")
        await self._wait()

    async def Flood(self, _request: StringValue, _context: Context) -> Stream:
        """Sends far more than fits between the two."""
        message = StringValue(value="x" * FLOOD_MESSAGE_BYTES)
        try:
            for _ in range(FLOOD_MESSAGES):
                self.flooded += 1
                yield message
        finally:
            self.flooding = False

    async def Join(self, requests: Stream, _context: Context) -> StringValue:
        return StringValue(value=",".join([request.value async for request in requests]))

    async def Read(self, _requests: Stream, context: Any) -> StringValue:  # noqa: ANN401  # EOF is not in its type
        """As Join, by the context's read."""
        values = []
        while (request := await context.read()) is not aio.EOF:
            values.append(request.value)
        return StringValue(value=",".join(values))

    async def First(self, requests: Stream, _context: Context) -> StringValue:
        """Answers the first request, whatever comes after it."""
        async for request in requests:
            return request
        return StringValue()

    async def Chat(self, requests: Stream, _context: Context) -> Stream:
        async for request in requests:
            yield request

    def _ended(self, *_call: object) -> None:
        self.ended += 1

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


class _Status(grpc.Status):
    def __init__(self, code: StatusCode, details: str, trailing_metadata: tuple[tuple[str, str], ...]) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


_KINDS: Final[dict[Callable[..., Any], tuple[str, ...]]] = {
    grpc.unary_unary_rpc_method_handler: (
        "Echo",
        "Metadata",
        "Fail",
        "FailWithStatus",
        "SetCode",
        "Crash",
        "GiveUp",
        "Remaining",
        "Wait",
    ),
    grpc.unary_stream_rpc_method_handler: ("Count", "Write", "FailMidway", "WaitMidway", "Flood"),
    grpc.stream_unary_rpc_method_handler: ("Join", "Read", "First"),
    grpc.stream_stream_rpc_method_handler: ("Chat",),
}


def add_probe_to_server(probe: Probe, server: aio.Server) -> None:
    """Registers the service as generated code does."""
    handlers = {
        name: make(
            getattr(probe, name),
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
        for make, names in _KINDS.items()
        for name in names
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class ProbeStub:
    """A callable for each method, over one channel, as a generated stub has them."""

    def __init__(self, channel: aio.Channel) -> None:
        makers = {
            grpc.unary_unary_rpc_method_handler: channel.unary_unary,
            grpc.unary_stream_rpc_method_handler: channel.unary_stream,
            grpc.stream_unary_rpc_method_handler: channel.stream_unary,
            grpc.stream_stream_rpc_method_handler: channel.stream_stream,
        }
        self._makers = {name: makers[kind] for kind, names in _KINDS.items() for name in names}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # one of four kinds of callable
        return self._makers[name](f"/{SERVICE}/{name}", StringValue.SerializeToString, StringValue.FromString)
