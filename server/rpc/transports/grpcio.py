"""The reference transport: grpcio's asyncio server."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeAlias

import grpc
from grpc import aio

from server.rpc import errors
from server.rpc.load import Load
from server.rpc.transports.base import BUSY, MAX_CONCURRENT_CALLS, MAX_REQUEST_BYTES, ListenError, Route
from server.rpc.transports.tls import TlsContent, TlsError, TlsFiles

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Found: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    # Clients that ping idle connections are kept; by default they are sent away with GOAWAY too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    # A client that vanished without a word is noticed after these two, and its calls are cancelled.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class GrpcioTransport:
    """One server on one address, `host:port`; services are added to `server` before `start`.

    With `reuse_port`, other processes may serve on the same port. Without it a second server on the port fails to
    start: it would silently take half of the calls.
    """

    def __init__(self, listen: str, *, reuse_port: bool = False, tls: TlsFiles | None = None) -> None:
        self._listen = listen
        self._tls = tls
        options = (*OPTIONS, ("grpc.so_reuseport", int(reuse_port)))
        self._gatekeeper = _Gatekeeper()
        self.server: Final = aio.server(
            interceptors=(self._gatekeeper,), options=options, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for; grpcio has read its request by then."""
        self._gatekeeper.loads.update(dict.fromkeys(paths, load))

    def add_route(self, path: str, route: Route) -> None:
        """Does nothing: grpcio serves gRPC alone."""

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""
        try:
            port = self._add_port()
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {self._listen}: is another server using the port?") from error
        await self.server.start()
        return f"{self._listen.rpartition(':')[0]}:{port}"

    def _add_port(self) -> int:
        if self._tls is None:
            return self.server.add_insecure_port(self._listen)
        return self.server.add_secure_port(self._listen, _credentials(self._tls))

    async def renew(self) -> None:
        """Nothing is to be done: each handshake asks for the certificate."""

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
        await self.server.stop(grace_s)


class _Gatekeeper(aio.ServerInterceptor):
    """Turns away calls of unary methods, by their paths, that a load has no room for."""

    def __init__(self) -> None:
        self.loads: Final[dict[str, Load]] = {}
        self._kept: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Found]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Found:
        """The method's handler, behind its load."""
        path = handler_call_details.method
        if (known := self._kept.get(path)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if (load := self.loads.get(path)) is not None and handler is not None:
            handler = self._kept[path] = _behind(load, path, handler)
        return handler


def _behind(load: Load, path: str, handler: _Handler) -> _Handler:
    behaviour: Any = handler.unary_unary

    async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401  # the method's own types
        if load.is_full:
            load.turn_away(path)
            await errors.abort_with(context, BUSY)
        load.active += 1
        try:
            return await behaviour(request, context)
        finally:
            load.active -= 1
            load.done += 1

    return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that each handshake asks whether the files have changed; bad ones leave it as it was."""
    current = tls.content()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            content = tls.content()
            if content == current:
                return None
            tls.check()
        except (OSError, TlsError):
            return None
        current = content
        return _configuration(content)

    wants = tls.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(
        _configuration(current),
        changed,  # type: ignore[arg-type]  # the stubs leave out that None means no change
        require_client_authentication=wants,
    )


def _configuration(content: TlsContent) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(content.key, content.certificate)], content.client_ca)
