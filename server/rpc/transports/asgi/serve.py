"""Runs the application on h2corn, within the loop that the rest of the server runs in."""

import asyncio
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from h2corn import Config, Server

from server.rpc.load import Load
from server.rpc.transports.asgi import threads
from server.rpc.transports.asgi.app import GrpcApp
from server.rpc.transports.base import ListenError, Route, cannot_listen
from server.rpc.transports.tls import TlsFiles

if TYPE_CHECKING:
    from grpc import aio

_LONGEST_GRACE_S: Final = 3600.0
"""h2corn's own bound on a stop; it only has to be longer than any grace that `stop` is given."""

_MAX_METADATA_BYTES: Final = 64 * 1024
"""Most metadata of one call; h2corn would take a megabyte, of each of the 256 calls of a connection."""

_BACKLOG: Final = 1024
"""Connections that may wait to be taken."""

_CUT_S: Final = 1.0
"""What calls that were cut off may still take to say so."""


class AsgiTransport:
    """One server on one address, `host:port`; services are added to `server` before `start`.

    With `reuse_port`, other processes may serve on the same port, and the kernel spreads connections over them.
    """

    def __init__(self, listen: str, *, reuse_port: bool = False, tls: TlsFiles | None = None) -> None:
        self._listen = listen
        self._app = GrpcApp()
        # Generated code needs no more of a server than its two methods to add handlers.
        self.server: Final = cast("aio.Server", self._app)
        self._tls = tls
        self._reuse_port = reuse_port
        self._socket: socket.socket | None = None
        self._http = Server(self._app, _config(listen, tls, reuse_port=reuse_port))
        self._serving: set[asyncio.Task[None]] = set()

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Turns away what the load has no room for, before anything of it is read."""
        self._app.bound(paths, load)

    def add_route(self, path: str, route: Route) -> None:
        """Serves plain HTTP at this path."""
        self._app.add_route(path, route)

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""
        host = self._listen.rpartition(":")[0]
        try:
            if self._tls is not None:
                self._socket = _listening(self._listen, reuse_port=self._reuse_port)
                await self._serve_on(self._socket, self._tls)
                return f"{host}:{self._socket.getsockname()[1]}"
            await self._serve()
        except OSError as error:
            raise ListenError(cannot_listen(self._listen, error)) from error
        return f"{host}:{self._http.addresses[0].rpartition(':')[2]}"

    async def renew(self) -> None:
        """Takes new connections with the certificate that the files have now; calls on the others finish.

        h2corn reads a certificate once, so another one of it takes over the listening socket.
        """
        if self._socket is not None and self._tls is not None:
            before = self._http
            await self._serve_on(self._socket, self._tls)
            before.shutdown()

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
        if self._socket is not None:
            self._socket.close()
        if not self._serving:
            return
        self._http.shutdown()
        await asyncio.wait(self._serving, timeout=grace_s)
        self._app.cut()
        done, _ = await asyncio.wait(self._serving, timeout=_CUT_S) if self._serving else (set(), set())
        for serving in done:
            serving.result()

    async def _serve_on(self, listening: socket.socket, tls: TlsFiles) -> None:
        bind = f"fd://{os.dup(listening.fileno())}"  # h2corn closes what it is given
        self._http = Server(self._app, _config(bind, tls, reuse_port=False))
        await self._serve()

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._http.serve())
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await self._http.wait_started()
            threads.let_the_loop_finish()
        except OSError:
            with suppress(OSError):
                await serving
            raise


def _listening(listen: str, *, reuse_port: bool) -> socket.socket:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG, reuse_port=reuse_port)


def _config(listen: str, tls: TlsFiles | None, *, reuse_port: bool) -> Config:
    return Config(
        bind=(listen,),
        reuse_port=reuse_port,
        certfile=tls.certificate if tls else None,
        keyfile=tls.key if tls else None,
        ca_certs=tls.client_ca if tls else None,
        cert_reqs="required" if tls and tls.client_ca else "none",
        grpc=True,
        http1=True,  # for what is no gRPC: JSON, and the routes of proxies
        lifespan="off",
        access_log=False,
        log_format="json",
        date_header=False,
        h2_max_header_list_size=_MAX_METADATA_BYTES,
        runtime_threads=1,  # the work is in Python's one thread; a second one here only adds switches
        timeout_graceful_shutdown=_LONGEST_GRACE_S,
    )
