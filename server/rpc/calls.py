"""What every call has, whichever transport brought it: a time to answer within, and one way out for faults.

A servicer's method is written as `async def Method(self, request, within_s) -> response` and decorated with
`answering`, or as `async def Method(self, request, response, within_s)` and decorated with `filling`: either makes it
the generated `Method(self, request, context)`.
"""

import functools
import inspect
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast

from google.protobuf.message import Message
from grpc import StatusCode
from quota.v1.error_reason_pb2 import ErrorReason

from server.domain.errors import DeadlineError, HoldgateError, InvalidRequestError, StoreUnavailableError
from server.domain.units import MAX_ID_BYTES
from server.logs import log
from server.rpc import errors
from server.rpc.denials import Denied

ANSWER_MARGIN_S: Final = 0.003
"""Kept from the caller's deadline for the answer's way back, so that the caller learns what became of the call."""

WAIT_MARGIN_S: Final = 0.02
"""Kept from the deadline of a call that waits, so that it has left its queue when the caller gives it up."""

_TIME_LEFT: Final[ContextVar[Callable[[], float | None] | None]] = ContextVar("time_left", default=None)
"""Of a call that waits."""

_OUR_FAULTS: Final = frozenset(
    {StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED}
)


class Bounded(Protocol):
    """A servicer whose calls wait at most `store_timeout_s` seconds for the store."""

    @property
    def store_timeout_s(self) -> float:
        """The longest wait, in seconds."""


class CallContext(errors.Abortable, Protocol):
    """All that a transport has to offer to the servicers."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None when the caller set none."""


class StreamContext(CallContext, Protocol):
    """The same of a call that is answered bit by bit."""

    async def send_initial_metadata(self, initial_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Sends the headers now, with these among them."""


Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Servicer = TypeVar("Servicer", bound=Bounded)


def answering(
    method: Callable[[Servicer, Request, float], Awaitable[Response]],
) -> Callable[[Servicer, Request, CallContext], Coroutine[Any, Any, Response]]:
    """Makes a servicer's method of one that takes the seconds it has in place of a context.

    A HoldgateError ends the call with its status; any other exception with INTERNAL, a correlation id and not a
    word of its text.
    """

    @functools.wraps(method)
    async def call(servicer: Servicer, request: Request, context: CallContext) -> Response:
        given_s = None
        try:
            given_s = context.time_remaining()
            return await method(servicer, request, _within(servicer.store_timeout_s, given_s))
        except Exception as error:  # noqa: BLE001  # whatever it was, the caller is told and the log has it
            await _abort(method.__name__, request, context, error, given_s)

    return call


def filling(
    response_type: type[Response], *, waits: bool = False
) -> Callable[
    [Callable[[Servicer, Request, Response, float], Awaitable[None]]],
    Callable[[Servicer, Request, CallContext], Coroutine[Any, Any, Response]],
]:
    """As `answering`, for a method that fills a response in: so it can fill a part of another message, too.

    To make a part apart and to hand it over would copy it, at the cost of making it. With `waits` a call whose request
    has `wait` set knows how much time it has in all: see `time_left_of_call`.
    """

    def made(
        method: Callable[[Servicer, Request, Response, float], Awaitable[None]],
    ) -> Callable[[Servicer, Request, CallContext], Coroutine[Any, Any, Response]]:
        @functools.wraps(method)
        async def call(servicer: Servicer, request: Request, context: CallContext) -> Response:
            given_s, token = None, None
            try:
                given_s = context.time_remaining()
                if waits and cast("Any", request).wait:
                    token = _TIME_LEFT.set(context.time_remaining)
                response = response_type()
                await method(servicer, request, response, _within(servicer.store_timeout_s, given_s))
            except Exception as error:  # noqa: BLE001  # whatever it was, the caller is told and the log has it
                await _abort(method.__name__, request, context, error, given_s)
            else:
                return response
            finally:
                if token is not None:
                    _TIME_LEFT.reset(token)

        return call

    return made


def streaming(
    method: Callable[[Servicer, Request, float], AsyncGenerator[Response, None]],
) -> Callable[[Servicer, Request, StreamContext], AsyncIterator[Response]]:
    """As `answering`, for a method that answers for as long as its caller listens. The caller learns at once that it
    is listened to: headers are sent before the first answer.
    """

    @functools.wraps(method)
    async def call(servicer: Servicer, request: Request, context: StreamContext) -> AsyncIterator[Response]:
        try:
            await context.send_initial_metadata(())
            async with aclosing(method(servicer, request, servicer.store_timeout_s)) as responses:
                async for response in responses:
                    yield response
        except HoldgateError as error:
            tell(method.__name__, request, error)
            await errors.abort(context, error)
        except Exception:  # noqa: BLE001  # whatever it was, the caller is told and the log has it
            await errors.abort_internal(context, tell_failure(method.__name__, request))

    return call


def time_left_of_call() -> Callable[[], float | None]:
    """How long this call may still wait, in seconds; raises InvalidRequestError where it is no call of its own."""
    time_left = _TIME_LEFT.get()
    if time_left is None:
        raise InvalidRequestError.of("wait", "is for a call of its own; in a Batch or Stream ask again with the ticket")

    def left_s() -> float | None:
        given_s = time_left()
        return None if given_s is None else max(given_s - WAIT_MARGIN_S, 0)

    return left_s


def as_written(method: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
    """The method that `filling` decorated, for a caller that deals with time and faults itself."""
    return cast("Callable[..., Awaitable[None]]", inspect.unwrap(method))


def _within(store_timeout_s: float, given_s: float | None) -> float:
    """How long a call may wait for the store that has so much time in all, in seconds; raises DeadlineError."""
    if given_s is None:
        return store_timeout_s
    within_s = min(store_timeout_s, given_s - ANSWER_MARGIN_S)
    if within_s <= 0:
        raise DeadlineError(f"the call came with {given_s * 1000:.0f} ms left of its deadline; nothing was tried")
    return within_s


async def _abort(rpc: str, request: Message, context: CallContext, error: Exception, given_s: float | None) -> NoReturn:
    """Ends a call that had so much time with what became of it: the exception that is being handled."""
    if isinstance(error, Denied):
        await errors.abort_with(context, error.status)
    if not isinstance(error, HoldgateError):
        await errors.abort_internal(context, tell_failure(rpc, request))
    if isinstance(error, StoreUnavailableError) and given_s is not None:
        left_s = context.time_remaining()
        if left_s is not None and left_s <= ANSWER_MARGIN_S:
            error = DeadlineError(f"the deadline of {given_s * 1000:.0f} ms ended before the store answered")
    tell(rpc, request, error)
    await errors.abort(context, error)


def tell_failure(rpc: str, request: Message) -> str:
    """Logs the exception being handled, a defect of the server; the correlation id that the caller is given."""
    correlation_id = uuid.uuid4().hex
    log.exception("rpc.failed", rpc=rpc, correlation_id=correlation_id, **_whose(request))
    return correlation_id


def tell(rpc: str, request: Message, error: HoldgateError) -> None:
    """Logs a call that ended with an error."""
    outcome = errors.mapped(error)
    write = log.warning if outcome.status in _OUR_FAULTS else log.info
    write(
        "rpc.failed",
        rpc=rpc,
        status=outcome.status.name,
        reason=ErrorReason.Name(outcome.reason),
        error=errors.clipped(error.message, errors.MAX_MESSAGE_BYTES),
        **_whose(request),
    )


def _whose(request: Message) -> dict[str, str]:
    """Whose state the request is about, where it says so."""
    named = {name: getattr(request, name, "") for name in ("policy", "tenant", "request_id", "hold_id")}
    return {name: errors.clipped(value, MAX_ID_BYTES) for name, value in named.items() if value}
