"""Middleware for WSGI applications (Flask, Django, Pyramid)."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any, TypeAlias

from holdgate.answers import HttpAnswer, QuotaAway, Refused, away_answer, http_answer
from holdgate.asking import Ask
from holdgate.failing import WorkFailed, failed
from holdgate.threads import Quota

Environ: TypeAlias = MutableMapping[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

HOLD_KEY = "holdgate.hold"
"""Where the application finds its hold, to report what was used."""


class WsgiQuota:
    """Asks before the application runs, and settles once its answer has been sent.

    `ask` makes the question of a request, or None where a request is free. An answer of 500 and above, or an
    exception, releases the hold.
    """

    def __init__(self, app: Application, quota: Quota, ask: Callable[[Environ], Ask | None]) -> None:
        self._app = app
        self._quota = quota
        self._ask = ask

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        ask = self._ask(environ)
        if ask is None:
            return self._app(environ, start_response)
        stack = ExitStack()
        try:
            hold = stack.enter_context(self._quota.hold(ask))
        except Refused as refusal:
            return _sent(http_answer(refusal.decision), start_response)
        except QuotaAway:
            return _sent(away_answer(), start_response)
        environ[HOLD_KEY] = hold
        added = list(http_answer(hold.decision).headers.items()) if hold.decision else []
        return _held(stack, self._app, environ, start_response, added)


def _held(
    stack: ExitStack, app: Application, environ: Environ, start_response: StartResponse, added: list[tuple[str, str]]
) -> Iterator[bytes]:
    """The application's answer; the hold ends with it, however it ends."""
    statuses: list[str] = []

    def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:  # noqa: ANN401  # WSGI's own signature
        statuses.append(status)
        return start_response(status, [*headers, *added], *more)

    with failed(), stack:
        body = app(environ, start)
        try:
            yield from body
        finally:
            if hasattr(body, "close"):
                body.close()
        if statuses and int(statuses[-1].partition(" ")[0]) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WorkFailed


def _sent(answer: HttpAnswer, start_response: StartResponse) -> Iterable[bytes]:
    phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else "Refused"
    start_response(f"{answer.status} {phrase}", list(answer.headers.items()))
    return [answer.body]
