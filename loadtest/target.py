"""The server under load: whether it is this machine's own, and connections to it."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final

import grpc

from server.reaching import Target

REACH_S: Final = 5.0
"""How long a server may take to accept a connection."""

_LAST_PORT: Final = 65_535


class Unreachable(Exception):
    """The server does not answer; the message says what was tried."""


def split(target: str) -> tuple[str, int]:
    """Host and port of "host:port"; raises ValueError."""
    host, colon, port = target.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
        raise ValueError(f"{target!r} is no address; write host:port, such as 127.0.0.1:50051 or [::1]:50051")
    return host.strip("[]"), int(port)


def is_loopback(target: str) -> bool:
    """Whether only this machine is meant: every address of the host is a loopback one. Raises ValueError."""
    host, port = split(target)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def connect(target: Target) -> grpc.aio.Channel:
    """A connection of its own. Without the option, channels to one address would share one."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    shows: list[grpc.aio.ClientInterceptor] = (
        [_ShowsOnCall(target.metadata), _ShowsOnStream(target.metadata)] if target.token else []
    )
    credentials = target.credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(target.address, options=options, interceptors=shows)
    return grpc.aio.secure_channel(target.address, credentials, options=options, interceptors=shows)


async def reach(target: Target) -> grpc.aio.Channel:
    """A connection that stands; raises Unreachable."""
    channel = connect(target)
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(REACH_S):
            while state is not grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        await channel.close()
        raise Unreachable(f"no gRPC server accepts connections at {target.address}, {target.manner}") from None
    return channel


class _Shows:
    """Sends the token with each call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = grpc.aio.Metadata(*metadata)

    def shown(self, details: Any) -> Any:  # noqa: ANN401  # grpc's own
        """The call's details with it."""
        return details._replace(metadata=self._metadata)


class _ShowsOnCall(_Shows, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: Any,  # noqa: ANN401  # grpc's own
        request: Any,  # noqa: ANN401  # as above
    ) -> Any:  # noqa: ANN401  # as above
        """Adds it to the call's metadata."""
        return await continuation(self.shown(client_call_details), request)


class _ShowsOnStream(_Shows, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: Any,  # noqa: ANN401  # grpc's own
        request_iterator: Any,  # noqa: ANN401  # as above
    ) -> Any:  # noqa: ANN401  # as above
        """Adds it to the stream's metadata."""
        return await continuation(self.shown(client_call_details), request_iterator)
