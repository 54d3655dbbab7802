"""A span for each script that the store runs for a call that is traced."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)

from server.engine.client import StoreConnection
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.scripts import SCRIPT_NAMES, script
from server.engine.store_errors import StoreError

if TYPE_CHECKING:
    from server.engine.client import OnConnect

STREAM: Final[ContextVar[SpanContext]] = ContextVar("stream", default=INVALID_SPAN_CONTEXT)
"""The stream under way. It may last for days, so its scripts are no part of its trace: each begins one of its own."""


class TracedConnection(StoreConnection):
    """A `StoreConnection` whose scripts have spans, by OpenTelemetry's conventions for databases."""

    def __init__(self, url: str, tracer: Tracer, *, on_connect: "Sequence[OnConnect]") -> None:
        super().__init__(url, on_connect=on_connect)
        self._tracer = tracer
        self._described = {script(name).sha: _described(name) for name in SCRIPT_NAMES}

    def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> asyncio.Future[Reply]:
        """Run a script; its span ends when its answer comes, or when nobody waits for that any more."""
        span = self._begun(script.sha)
        reply = super().evalsha(script, keys, args, timeout_s, heard)
        if span is not None:
            reply.add_done_callback(lambda done: _end(span, done))
        return reply

    def _begun(self, sha: bytes) -> Span | None:
        """The span of a call's script. What the server does by itself has none."""
        of = get_current_span()
        links: Sequence[Link] = ()
        if not of.is_recording():
            stream = STREAM.get()
            if of.get_span_context().is_valid or not stream.is_valid:
                return None
            links = (Link(stream),)
        described = self._described[sha]
        name = f"EVALSHA {described['db.stored_procedure.name']}"
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=described, links=links)


def _described(name: str) -> Mapping[str, str]:
    return MappingProxyType(
        {"db.system.name": "redis", "db.operation.name": "EVALSHA", "db.stored_procedure.name": name}
    )


def _end(span: Span, reply: asyncio.Future[Reply]) -> None:
    error = None if reply.cancelled() else reply.exception()
    if reply.cancelled():
        span.set_attribute("error.type", "cancelled")
    elif error is not None:
        span.set_attribute("error.type", error.reason if isinstance(error, StoreError) else type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
