"""Methods as grpcio's server gets them: calls are turned away before they are read, and any bytes can be read."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from server.rpc import errors
from server.rpc.load import Load
from server.rpc.registrar import KINDS, behaviour_of
from server.rpc.transports.base import BUSY, UNREADABLE

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_NO_MESSAGE: Final = object()
"""Stands for bytes that are no message of the method. grpcio would log what its reader raises, and call it UNKNOWN."""


class Methods:
    """All methods that are served. Servicers register themselves as with `grpc.aio.Server`, which gets the methods when
    it is known what bounds them. A servicer reads a stream by iterating over it.
    """

    def __init__(self) -> None:
        self._services: Final[dict[str, dict[str, _Handler]]] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, _Handler]) -> None:
        """Serves these methods, by their names within the service."""
        self._services[service_name] = {name: _readable(handler) for name, handler in method_handlers.items()}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code registers the same methods by name as well."""

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for, of these paths."""
        for path in paths:
            _, service, name = path.split("/")
            self._services[service][name] = _behind(load, path, self._services[service][name])

    def add_to(self, server: aio.Server) -> None:
        """Has the server serve them."""
        for service, handlers in self._services.items():
            server.add_registered_method_handlers(service, handlers)


def _behind(load: Load, path: str, handler: _Handler) -> _Handler:
    """The unary method, where there is room for it. To grpcio it is a method that reads a stream, and so begins before
    its request is read: what is turned away is not read, and what is being read is in work.
    """
    behaviour: Any = handler.unary_unary

    async def answer(_requests: Any, context: Any) -> Any:  # noqa: ANN401  # the method's own types
        if load.is_full:
            load.turn_away(path)
            await errors.abort_with(context, BUSY)
        load.active += 1
        try:
            request = await context.read()
            if request is aio.EOF:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the request has no message; the method takes one")
            return await behaviour(request, context)
        finally:
            load.active -= 1
            load.done += 1

    return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


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
