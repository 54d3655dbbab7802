"""Counts calls: how many of each method ended how, how long they took, how many are being answered."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from inspect import isasyncgenfunction
from time import perf_counter
from typing import Any, Protocol

from grpc import StatusCode

from server.metrics.metrics import Metrics
from server.rpc.registrar import Behaviour, Handler


class EndedContext(Protocol):
    """What tells of a call's end."""

    def code(self) -> StatusCode:
        """The status that it was given."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline."""


class CountCalls:
    """A layer around each method. Streams are counted when they end, and not timed: they last as callers please.

    `in_flight` calls are being answered now.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._calls, self._time = metrics.calls, metrics.call_time
        self.in_flight = 0

    def __call__(self, method: str, handler: Handler, behaviour: Behaviour) -> Behaviour:
        """The method, counted."""
        if not handler.response_streaming and not handler.request_streaming:
            return self._unary(method, behaviour)
        return self._generator(method, behaviour) if isasyncgenfunction(behaviour) else self._long(method, behaviour)

    def _unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        calls, answered, took = self._calls, self._calls.one_more(method, "OK"), self._time.timer(method)

        async def counted(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            started_s = perf_counter()
            self.in_flight += 1
            try:
                response = await behaviour(request, context)
            except BaseException as error:
                calls.add(method, status_of(error, context))
                raise
            else:
                answered()
                return response
            finally:
                self.in_flight -= 1
                took(perf_counter() - started_s)

        return counted

    def _long(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            with self._open(method, context):
                return await behaviour(request, context)

        return counted

    def _generator(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def counted(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            with self._open(method, context):
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response

        return counted

    @contextmanager
    def _open(self, method: str, context: EndedContext) -> Iterator[None]:
        status = "OK"
        self.in_flight += 1
        try:
            yield
        except BaseException as error:
            status = status_of(error, context)
            raise
        finally:
            self.in_flight -= 1
            self._calls.add(method, status)


def status_of(error: BaseException, context: EndedContext) -> str:
    """The name of the status with which a call ends that an exception ends."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
    code = context.code()
    return "UNKNOWN" if code is StatusCode.OK else code.name
