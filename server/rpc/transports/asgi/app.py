"""gRPC, and its unary methods as JSON, as an ASGI application. It knows nothing of the server that runs it."""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc
from grpc import StatusCode, aio

from server.logs import log
from server.rpc import errors
from server.rpc.load import Load
from server.rpc.transports.asgi import json_call, metadata
from server.rpc.transports.asgi.call import Call, Method
from server.rpc.transports.asgi.framing import Disconnected, Event, Receive
from server.rpc.transports.asgi.metadata import Headers
from server.rpc.transports.asgi.pace import Pace
from server.rpc.transports.asgi.reply import END, Reply, Send, ending
from server.rpc.transports.asgi.status import CallFailed
from server.rpc.transports.base import BUSY, HEALTH_CHECK, MAX_CONCURRENT_CALLS, Route

Handlers: TypeAlias = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]

_MEDIA_TYPE: Final = b"application/grpc"
_MEDIA_TYPES: Final = frozenset({_MEDIA_TYPE, b"application/grpc+proto"})
_BUSY: Final = ending(
    StatusCode.UNAVAILABLE, BUSY.message, metadata.encoded([(errors.DETAILS_KEY, BUSY.SerializeToString())])
)
_JSON: Final = frozenset({json_call.MEDIA_TYPE})


class GrpcApp:
    """Serves generated servicers; they register themselves as with `grpc.aio.Server`."""

    def __init__(self) -> None:
        self._methods: Final[dict[str, Method]] = {}
        self._routes: Final[dict[str, Route]] = {}
        self._load = Load()
        self._pace = Pace(self._load)
        self._bounded: Collection[str] = ()
        self._tasks: Final[set[asyncio.Task[Any]]] = set()
        self._over = False

    def add_registered_method_handlers(self, service_name: str, method_handlers: Handlers) -> None:
        """Serves these methods, by their names within the service."""
        for name, handler in method_handlers.items():
            self._methods[f"/{service_name}/{name}"] = _method(handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code registers the same methods by name as well."""

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for, of these paths."""
        self._load, self._pace, self._bounded = load, Pace(load), frozenset(paths)

    def add_route(self, path: str, route: Route) -> None:
        """Has `route`, an ASGI application, answer plain HTTP requests for this path."""
        self._routes[path] = route

    def cut(self) -> None:
        """Ends every call that is in work, with UNAVAILABLE."""
        self._over = True
        for task in self._tasks:
            task.cancel()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answers one HTTP request, or turns it away."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        load, path = self._load, scope["path"]
        is_bounded = path in self._bounded
        self._pace.arrive()
        if (is_bounded and load.is_full) or (len(self._tasks) >= MAX_CONCURRENT_CALLS and path != HEALTH_CHECK):
            await self._turn_away(scope, send)
        elif not is_bounded:
            await self._answer(scope, receive, send)
        else:
            load.active += 1
            try:
                if (turn := self._pace.begin()) is None or await turn:
                    await self._answer(scope, receive, send)
                else:
                    await self._turn_away(scope, send)
            finally:
                load.active -= 1
                load.done += 1

    async def _turn_away(self, scope: Event, send: Send) -> None:
        """Answers a call that there is no room for, of which nothing is read."""
        if scope["path"] in self._methods:
            self._load.turn_away(scope["path"])
        if not _is_of(scope["headers"], _MEDIA_TYPES):
            await _refuse(send, 503, BUSY.message.encode(), (b"retry-after", b"1"))
            return
        with suppress(OSError):  # nobody is there to be told anything
            await send(_BUSY)
            await send(END)

    def _answer(self, scope: Event, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if (route := self._routes.get(scope["path"])) is not None:
            return self._serve_plain(route(scope, receive, send))
        if scope["method"] != "POST":
            return _refuse(send, 405, b"a call is a POST", (b"allow", b"POST"))
        if _is_of(scope["headers"], _MEDIA_TYPES):
            return self._serve(scope, receive, Reply(send))
        if _is_of(scope["headers"], _JSON):
            answer = json_call.answer(self._methods.get(scope["path"]), scope, receive, send)
            return self._serve_plain(answer)
        text = b"expected the content-type application/grpc or application/json"
        return _refuse(send, 415, text, (b"accept", _MEDIA_TYPE + b", " + json_call.MEDIA_TYPE))

    async def _serve_plain(self, work: Coroutine[Any, Any, None]) -> None:
        """Has plain HTTP answered; cut off with the rest when the server stops."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # an application always runs in one
        self._tasks.add(task)
        try:
            await work
        except (Disconnected, OSError):
            pass  # nobody is there to be told anything
        finally:
            self._tasks.discard(task)

    async def _serve(self, scope: Event, receive: Receive, reply: Reply) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # an application always runs in one
        self._tasks.add(task)
        message = None
        try:
            try:
                message = await Call(task, self._called(scope), scope, receive, reply).answer()
            except Disconnected:
                raise
            except BaseException as error:  # noqa: BLE001  # whatever it was, the caller is told and the log has it
                self._fail(error, task, scope, reply)
            if message is None:
                await reply.end()
            else:
                await reply.end_with(message)
        except Disconnected:
            pass  # nobody is there to be told anything
        finally:
            self._tasks.discard(task)

    def _fail(self, error: BaseException, task: asyncio.Task[Any], scope: Event, reply: Reply) -> None:
        """Puts into the reply how a call ends that this exception ends; raises what is not the call's own."""
        match error:
            case aio.AbortError():
                pass  # the reply has its status
            case CallFailed():
                reply.fail(error.code, error.message, error.headers)
            case asyncio.CancelledError():
                if task.cancelling() > int(self._over):
                    raise error  # the caller went away
                why = "the server is stopping" if self._over else "the servicer gave up"
                reply.fail(StatusCode.UNAVAILABLE, why)
            case Exception():
                log.exception("rpc.failed", rpc=scope["path"])
                reply.fail(StatusCode.UNKNOWN, "the server failed; its log has the cause")
            case _:
                raise error

    def _called(self, scope: Event) -> Method:
        """The method that is called."""
        method = self._methods.get(scope["path"])
        if method is None:
            raise CallFailed(StatusCode.UNIMPLEMENTED, "Method not found!")
        if "http.response.trailers" not in scope["extensions"]:
            raise CallFailed(StatusCode.INTERNAL, "the request lacks te: trailers, without which it cannot be answered")
        return method


def _method(handler: "grpc.RpcMethodHandler[Any, Any]") -> Method:
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if behaviour is None or handler.request_deserializer is None or handler.response_serializer is None:
        raise TypeError(f"{handler} lacks its method or how to read and write its messages")
    return Method(
        behaviour=behaviour,
        deserialize=handler.request_deserializer,
        serialize=handler.response_serializer,
        takes_stream=handler.request_streaming,
        gives_stream=handler.response_streaming,
    )


def _is_of(headers: Headers, media_types: Collection[bytes]) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value in media_types or value.partition(b";")[0].strip().lower() in media_types
    return False


async def _refuse(send: Send, status: int, text: bytes, header: tuple[bytes, bytes]) -> None:
    """Answers what is no gRPC call in plain HTTP."""
    headers = [(b"content-type", b"text/plain"), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
