"""What the server asks of a transport, whichever it is."""

from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final, Protocol, TypeAlias

from google.rpc.status_pb2 import Status
from grpc import aio

from server.domain.errors import InvalidRequestError, OverloadedError
from server.rpc import errors
from server.rpc.load import Load

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Largest request; an import of 1000 rows, the largest that the contract allows, needs about a quarter of it."""

MAX_CONCURRENT_CALLS: Final = 4096
"""Calls in work at once, of all methods together; one more ends with BUSY at once, which keeps the others quick."""


BUSY: Final[Status] = errors.status_of(OverloadedError("the server has as many calls in work as it can answer in time"))
"""How a call ends that there is no room for."""

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
"""Answered however many calls are in work: who is busy is alive, and must not be restarted for it."""

UNREADABLE: Final[Status] = errors.status_of(
    InvalidRequestError.of("request", "its bytes are no message of the type that the method takes")
)
"""How a call ends whose request cannot be read."""


class ListenError(Exception):
    """The address cannot be served on."""


def cannot_listen(listen: str, why: object = "") -> str:
    """What is said of an address that cannot be served on, with the system's own reason where there is one."""
    text = f"cannot listen on {listen}: is another server using the port, or is the address not this machine's?"
    return f"{text} ({why})" if why else text


Route: TypeAlias = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]
"""An ASGI application: takes scope, receive and send."""


class Transport(Protocol):
    """Serves on one address, `host:port`."""

    @property
    def server(self) -> aio.Server:
        """Where the generated `add_…Servicer_to_server` put their servicers, before `start`."""

    def bound(self, paths: Collection[str], load: Load) -> None:
        """Takes calls of these methods, `/package.Service/Method`, only while the load has room for them.

        One too many ends with BUSY, before its request is read. Said before `start`.
        """

    def add_route(self, path: str, route: Route) -> None:
        """Serves plain HTTP at this path, where the transport can."""

    async def start(self) -> str:
        """Begins to serve; the address with the port that was taken. Raises ListenError."""

    async def renew(self) -> None:
        """Takes new connections with the certificate that the TLS files have now; no call is dropped for it."""

    async def stop(self, grace_s: float) -> None:
        """Takes no more calls, lets those in work finish for up to `grace_s` seconds, and ends."""
