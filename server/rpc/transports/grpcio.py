"""The reference transport: grpcio's asyncio server, without TLS."""

from typing import Final

from grpc import aio

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Largest request; an import of 1000 rows, the largest that the contract allows, needs about a quarter of it."""

MAX_CONCURRENT_CALLS: Final = 4096
"""Calls in work at once; beyond that the caller gets RESOURCE_EXHAUSTED at once, which keeps the others quick."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    # A second server on a port shall fail to start; with SO_REUSEPORT it would silently take half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients that ping idle connections are kept; by default they are sent away with GOAWAY too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    # A client that vanished without a word is noticed after these two, and its calls are cancelled.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class ListenError(Exception):
    """The address cannot be served on."""


class GrpcioTransport:
    """One server on one address, `host:port`; services are added to `server` before `start`."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self.server: Final = aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS)

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""
        try:
            port = self.server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {self._listen}: is another server using the port?") from error
        await self.server.start()
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
        await self.server.stop(grace_s)
