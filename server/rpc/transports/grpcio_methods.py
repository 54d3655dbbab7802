"""Methods as grpcio's server gets them: calls are turned away before they are read, and any bytes can be read."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from inspect import isasyncgenfunction
from math import inf
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from server.rpc import errors
from server.rpc.load import Load
from server.rpc.registrar import KINDS, behaviour_of
from server.rpc.transports.base import BUSY, HEALTH_CHECK, MAX_CONCURRENT_CALLS, UNREADABLE

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_NO_MESSAGE: Final = object()
"""Stands for bytes that are no message of the method. grpcio would log what its reader raises, and call it UNKNOWN."""


class Methods:
    """All methods that are served. Servicers register themselves as with `grpc.aio.Server`, which gets the methods when
    it is known what bounds them. A servicer reads a stream by iterating over it.
    """

    def __init__(self) -> None:
        self._services: Final[dict[str, dict[str, _Handler]]] = {}
        self._bounded: frozenset[str] = frozenset()
        self._load: Load | None = None

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, _Handler]) -> None:
        """Serves these methods, by their names within the service."""
        self._services[service_name] = {name: _readable(handler) for name, handler in method_handlers.items()}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code registers the same methods by name as well."""

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for, of these paths."""
        self._bounded, self._load = frozenset(paths), load

    def add_to(self, server: aio.Server) -> None:
        """Has the server serve them."""
        crowd = _Crowd()
        for service, handlers in self._services.items():
            behind = {
                name: _behind(_Door(path, crowd, self._load, counts=path in self._bounded), handler)
                for name, handler in handlers.items()
                for path in [f"/{service}/{name}"]
            }
            server.add_registered_method_handlers(service, behind)


class _Crowd:
    """The calls in work, of all methods: `active`. grpcio's own bound on them says RESOURCE_EXHAUSTED and no more,
    which could be taken for a refusal.
    """

    def __init__(self) -> None:
        self.active = 0


class _Door:
    """Where calls of one method come in; they are new work of the load's if that `counts` them."""

    def __init__(self, path: str, crowd: _Crowd, load: Load | None, *, counts: bool) -> None:
        self._path = path
        self._crowd = crowd
        self._load = load
        self._counted_by = load if counts else None
        self._most = inf if path == HEALTH_CHECK else MAX_CONCURRENT_CALLS

    async def enter(self, context: errors.Abortable) -> None:
        """Lets a call in, or ends it."""
        load = self._counted_by
        if self._crowd.active >= self._most or (load is not None and load.is_full):
            if self._load is not None:
                self._load.turn_away(self._path)
            await errors.abort_with(context, BUSY)
        self._crowd.active += 1
        if load is not None:
            load.active += 1

    def leave(self) -> None:
        """A call that was let in is over."""
        self._crowd.active -= 1
        if (load := self._counted_by) is not None:
            load.active -= 1
            load.done += 1


def _behind(door: _Door, handler: _Handler) -> _Handler:
    """The method, for calls that are let in. To grpcio it reads a stream even where it takes one request, and so begins
    before that is read: what is turned away is not read, and what is being read is in work.
    """
    behaviour: Any = behaviour_of(handler)
    streamed = bool(handler.request_streaming)
    answer: Any
    if isasyncgenfunction(behaviour):

        async def generated(requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # the method's own types
            await door.enter(context)
            try:
                asked = requests if streamed else await _only_request(context)
                async with aclosing(behaviour(asked, context)) as responses:
                    async for response in responses:
                        yield response
            finally:
                door.leave()

        answer = generated
    else:

        async def answered(requests: Any, context: Any) -> Any:  # noqa: ANN401  # as above
            await door.enter(context)
            try:
                return await behaviour(requests if streamed else await _only_request(context), context)
            finally:
                door.leave()

        answer = answered
    kind = KINDS[True, bool(handler.response_streaming)]
    return kind(answer, handler.request_deserializer, handler.response_serializer)


async def _only_request(context: Any) -> Any:  # noqa: ANN401  # as above
    request = await context.read()
    if request is aio.EOF:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the request has no message; the method takes one")
    return request


def _readable(handler: _Handler) -> _Handler:
    """The method, for requests that can be read; others end its calls."""
    behaviour, streamed = behaviour_of(handler), bool(handler.request_streaming)
    answer: Any
    if isasyncgenfunction(behaviour):

        async def generated(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # as above
            read = _each_read(request, context) if streamed else await _read(request, context)
            async with aclosing(behaviour(read, context)) as responses:
                async for response in responses:
                    yield response

        answer = generated
    elif streamed:

        async def answered(requests: Any, context: Any) -> Any:  # noqa: ANN401  # as above
            return await behaviour(_each_read(requests, context), context)

        answer = answered
    else:

        async def answered_once(request: Any, context: Any) -> Any:  # noqa: ANN401  # as above
            if request is _NO_MESSAGE:
                await errors.abort_with(context, UNREADABLE)
            return await behaviour(request, context)

        answer = answered_once
    reader = _reader(handler.request_deserializer)
    return KINDS[streamed, bool(handler.response_streaming)](answer, reader, handler.response_serializer)


def _reader(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    if deserialize is None:
        raise TypeError("a method lacks how to read its messages")

    def read(message: bytes) -> Any:  # noqa: ANN401  # as above
        try:
            return deserialize(message)
        except DecodeError:
            return _NO_MESSAGE

    return read


async def _read(request: Any, context: errors.Abortable) -> Any:  # noqa: ANN401  # as above
    if request is _NO_MESSAGE:
        await errors.abort_with(context, UNREADABLE)
    return request


async def _each_read(requests: AsyncIterator[Any], context: errors.Abortable) -> AsyncIterator[Any]:
    async for request in requests:
        yield await _read(request, context)
