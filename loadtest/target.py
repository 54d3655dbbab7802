"""The server under load: whether it is this machine's own, and connections to it."""

import asyncio
import ipaddress
import socket
from typing import Final

import grpc

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


def connect(target: str) -> grpc.aio.Channel:
    """A connection of its own. Without the option, channels to one address would share one."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def reach(target: str) -> grpc.aio.Channel:
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
        raise Unreachable(f"no gRPC server accepts connections at {target}") from None
    return channel
