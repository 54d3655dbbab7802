"""What tracing adds to a server, put in where the server is put together: without it there is nothing in the way."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from server.engine.client import StoreConnection
from server.rpc.registrar import Layer

if TYPE_CHECKING:
    from server.engine.client import OnConnect


class TracingError(Exception):
    """Calls cannot be traced."""


class Connect(Protocol):
    """Makes a connection to the store."""

    def __call__(self, url: str, *, on_connect: "Sequence[OnConnect]") -> StoreConnection:
        """To the store at this URL."""


class Tracing(NamedTuple):
    """`layers` go around every method, outside of all others; `connection` makes the connection to the store."""

    layers: Sequence[Layer] = ()
    connection: Connect = StoreConnection


@asynccontextmanager
async def opened_tracing(endpoint: str, rate: float) -> AsyncIterator[Tracing]:
    """Traces for the collector at this URL, until the block is left; none where it is empty. Raises TracingError."""
    if not endpoint:
        yield Tracing()
        return
    try:
        from server.tracing.calls import TraceCalls  # noqa: PLC0415  # an extra
        from server.tracing.export import exporting  # noqa: PLC0415  # an extra
        from server.tracing.scripts import TracedConnection  # noqa: PLC0415  # an extra
    except ImportError as error:
        why = (
            f"--otlp-endpoint needs OpenTelemetry, which cannot be imported ({error}): pip install 'holdgate[tracing]'"
        )
        raise TracingError(why) from error
    async with exporting(endpoint, rate) as tracer:
        yield Tracing((TraceCalls(tracer),), partial(TracedConnection, tracer=tracer))
