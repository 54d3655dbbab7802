"""Puts something around every method of every service, whichever transport serves it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import grpc
from grpc import aio

from server.rpc.load import Load
from server.rpc.transports.base import Route, Transport

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Any], Any]

Layer: TypeAlias = Callable[[str, Handler, Behaviour], Behaviour]
"""Makes another behaviour of a method's: takes its full name (`package.Service/Method`), its handler, its behaviour."""


class LayeredTransport:
    """A transport with `layers` around every method that it serves, the first of them innermost."""

    def __init__(self, transport: Transport, layers: Sequence[Layer]) -> None:
        self._transport: Final = transport
        # Generated code needs no more of a server than its two methods to add handlers.
        self.server: Final = cast("aio.Server", _Registrar(transport.server, layers))

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Takes calls of these methods only while the load has room for them."""
        self._transport.bound(paths, load)

    def add_route(self, path: str, route: Route) -> None:
        """Serves plain HTTP at this path, where the transport can; without layers."""
        self._transport.add_route(path, route)

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""
        return await self._transport.start()

    async def renew(self) -> None:
        """Takes new connections with the certificate that the TLS files have now."""
        await self._transport.renew()

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
        await self._transport.stop(grace_s)


class _Registrar:
    """Stands in for the `aio.Server` that generated code adds servicers to."""

    def __init__(self, server: aio.Server, layers: Sequence[Layer]) -> None:
        self._server: Final = server
        self._layers: Final = tuple(layers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Serves these methods, by their names within the service."""
        handlers = {name: self._layered(f"{service_name}/{name}", handler) for name, handler in method_handlers.items()}
        self._server.add_registered_method_handlers(service_name, handlers)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code registers the same methods by name as well."""

    def _layered(self, method: str, handler: Handler) -> Handler:
        behaviour = behaviour_of(handler)
        for layer in self._layers:
            behaviour = layer(method, handler, behaviour)
        return KINDS[bool(handler.request_streaming), bool(handler.response_streaming)](
            behaviour, handler.request_deserializer, handler.response_serializer
        )


def behaviour_of(handler: Handler) -> Behaviour:
    """What answers a call of the method."""
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if found is None:
        raise TypeError(f"{handler} lacks its method")
    return cast("Behaviour", found)


KINDS: Final[Mapping[tuple[bool, bool], Callable[..., Handler]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""What makes a handler of a method that takes, and gives, a stream."""
