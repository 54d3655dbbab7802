"""Where spans go: to a collector, by OTLP over HTTP, from a thread that no call waits for."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from threading import Thread
from typing import Final
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

FLUSH_S: Final = 2.0
"""How long the end of a server waits for its last spans to be taken."""

_PATH: Final = "/v1/traces"

log = logging.getLogger(__name__)


@asynccontextmanager
async def exporting(endpoint: str, rate: float) -> AsyncIterator[Tracer]:
    """What makes spans, and sends them to the collector at this URL until the block is left, and what is left then.

    A call is traced when its caller traces it; `rate` is the share that is traced of calls that come without a trace.
    The libraries' own variables, OTEL_*, say the rest: headers, certificates, batches, the service's name.
    """
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}{_PATH}")
    provider = TracerProvider(_sampler(rate), _resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer("holdgate", version("holdgate"))
    finally:
        # A collector that does not answer holds up its own thread alone, and that one ends with the process.
        flush = Thread(target=provider.shutdown, name="last spans", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_S)
        if flush.is_alive():
            log.warning("the collector at %s does not take the last spans; they are lost", endpoint)
            exporter.shutdown()  # type: ignore[no-untyped-call]  # the library leaves it out


def _sampler(rate: float) -> ParentBased:
    return ParentBased(TraceIdRatioBased(rate))


def _resource() -> Resource:
    """This process; the variables of OpenTelemetry may say otherwise."""
    own = Resource.create(
        {"service.name": "holdgate", "service.version": version("holdgate"), "service.instance.id": str(uuid4())}
    )
    return own.merge(OTELResourceDetector().detect())
