"""The reference transport: grpcio's asyncio server."""

from collections.abc import Collection
from typing import Final, cast

import grpc
from grpc import aio

from server.rpc.load import Load
from server.rpc.transports.base import MAX_REQUEST_BYTES, ListenError, Route, cannot_listen
from server.rpc.transports.grpcio_methods import Methods
from server.rpc.transports.tls import TlsContent, TlsError, TlsFiles

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
        self._methods = Methods()
        # Generated code needs no more of a server than its two methods to add handlers.
        self.server: Final = cast("aio.Server", self._methods)
        self._grpcio = aio.server(options=options)

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for, before its request is read."""
        self._methods.bound(paths, load)

    def add_route(self, path: str, route: Route) -> None:
        """Does nothing: grpcio serves gRPC alone."""

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""
        try:
            port = self._add_port()
        except RuntimeError as error:
            raise ListenError(cannot_listen(self._listen)) from error
        self._methods.add_to(self._grpcio)
        await self._grpcio.start()
        return f"{self._listen.rpartition(':')[0]}:{port}"

    def _add_port(self) -> int:
        if self._tls is None:
            return self._grpcio.add_insecure_port(self._listen)
        return self._grpcio.add_secure_port(self._listen, _credentials(self._tls))

    async def renew(self) -> None:
        """Nothing is to be done: each handshake asks for the certificate."""

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
        await self._grpcio.stop(grace_s)


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
