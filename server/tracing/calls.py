"""A span for each call, in the trace that its caller began."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from inspect import isasyncgenfunction
from types import MappingProxyType
from typing import Any, Final, Protocol

from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from quota.v1.decision_pb2 import Decision, Outcome
from quota.v1.error_reason_pb2 import ErrorReason
from structlog.contextvars import bound_contextvars

from server.domain.errors import HoldgateError
from server.domain.units import MAX_ID_BYTES
from server.rpc import errors
from server.rpc.counting import EndedContext, status_of
from server.rpc.denials import Denied
from server.rpc.registrar import Behaviour, Handler
from server.tracing.scripts import STREAM

_UNTRACED: Final = (f"{health.SERVICE_NAME}/", f"{reflection.SERVICE_NAME}/")
"""Methods that probes call, many times a second and to no end that anybody would look for."""

_NAMED: Final = ("policy", "tenant", "action")
"""Fields of a request that say what it is about. Ids and amounts are nobody's business but the caller's."""

_FAULTS: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are the server's fault, as OpenTelemetry's conventions have it."""

_PARENTS: Final = TraceContextTextMapPropagator()


class TracedContext(EndedContext, Protocol):
    """What a call tells of itself."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What the caller sent along."""


class TraceCalls:
    """A layer around each method: a server's span, by OpenTelemetry's conventions for RPC.

    The log's lines of a call that is traced have its `trace_id`.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __call__(self, method: str, handler: Handler, behaviour: Behaviour) -> Behaviour:
        """The method, traced."""
        if method.startswith(_UNTRACED):
            return behaviour
        if not handler.response_streaming and not handler.request_streaming:
            return self._unary(method, behaviour)
        return self._generator(method, behaviour) if isasyncgenfunction(behaviour) else self._long(method, behaviour)

    def _unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        described = _described(method)

        async def traced(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            with self._tracer.start_as_current_span(
                method,
                _parent(context),
                SpanKind.SERVER,
                described,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                if not span.is_recording():
                    return await behaviour(request, context)
                _say_what(span, request)
                with bound_contextvars(trace_id=format_trace_id(span.get_span_context().trace_id)):
                    try:
                        response = await behaviour(request, context)
                    except BaseException as error:
                        _say_how_it_failed(span, error, context)
                        raise
                _say_status(span, "OK")
                if isinstance(decision := getattr(response, "decision", None), Decision):
                    _say_decision(span, Outcome.Name(decision.outcome), decision.refusal.code)
                return response

        return traced

    def _long(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def traced(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            with self._stream(method, context):
                return await behaviour(request, context)

        return traced

    def _generator(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def traced(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # whatever the types are
            with self._stream(method, context):
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response

        return traced

    @contextmanager
    def _stream(self, method: str, context: TracedContext) -> Iterator[None]:
        span = self._tracer.start_span(method, _parent(context), SpanKind.SERVER, _described(method))
        STREAM.set(span.get_span_context())
        try:
            yield
        except BaseException as error:
            _say_how_it_failed(span, error, context)
            raise
        else:
            _say_status(span, "OK")
        finally:
            span.end()


def _described(method: str) -> Mapping[str, str]:
    return MappingProxyType({"rpc.system.name": "grpc", "rpc.method": method})


def _parent(context: TracedContext) -> Context:
    """The caller's span, as the metadata `traceparent` names it."""
    sent = {key: value for key, value in context.invocation_metadata() if key in _PARENTS.fields}
    return _PARENTS.extract(sent, Context())


def _say_what(span: Span, request: Any) -> None:  # noqa: ANN401  # whatever the method's type is
    for field in _NAMED:
        if isinstance(value := getattr(request, field, None), str) and value:
            span.set_attribute(f"holdgate.{field}", errors.clipped(value, MAX_ID_BYTES))
    if (operations := getattr(request, "operations", None)) is not None:
        span.set_attribute("holdgate.operations", len(operations))


def _say_decision(span: Span, outcome: str, code: str) -> None:
    span.set_attribute("holdgate.outcome", outcome.removeprefix("OUTCOME_").lower())
    if code:
        span.set_attribute("holdgate.code", code)


def _say_how_it_failed(span: Span, error: BaseException, context: TracedContext) -> None:
    _say_status(span, status_of(error, context))
    # A transport ends a call by an exception of its own, raised while the cause is handled.
    cause = error.__context__
    if isinstance(cause, Denied):
        _say_decision(span, "refused", _code_of(cause))
    elif isinstance(cause, HoldgateError):
        span.set_attribute("error.type", ErrorReason.Name(errors.mapped(cause).reason))


def _say_status(span: Span, status: str) -> None:
    span.set_attribute("rpc.response.status_code", status)
    if status in _FAULTS:
        span.set_status(Status(StatusCode.ERROR))


def _code_of(denial: Denied) -> str:
    info = ErrorInfo()
    for detail in denial.status.details:
        if detail.Unpack(info):
            return info.metadata["code"]
    return ""
