"""Middleware for ASGI applications (Starlette, FastAPI, Quart)."""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

from holdgate.answers import HttpAnswer, QuotaAway, Refused, away_answer, http_answer
from holdgate.asking import Ask
from holdgate.asyncio import AsyncQuota
from holdgate.failing import WorkFailed, failed
from holdgate.hold import Hold

Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Application: TypeAlias = Callable[[Event, Receive, Send], Awaitable[None]]

HOLD_KEY = "holdgate.hold"
"""Where the application finds its hold, to report what was used."""


class AsgiQuota:
    """Asks before the application runs, and settles once its answer has been sent.

    `ask` makes the question of a request's scope, or None where a request is free. An answer of 500 and above, an
    exception, or a caller that goes away so that the server cancels the application, releases the hold.
    """

    def __init__(self, app: Application, quota: AsyncQuota, ask: Callable[[Event], Ask | None]) -> None:
        self._app = app
        self._quota = quota
        self._ask = ask

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answers one request."""
        ask = self._ask(scope) if scope["type"] == "http" else None
        if ask is None:
            await self._app(scope, receive, send)
            return
        answer = _Watched(send)
        try:
            with failed():
                async with self._quota.hold(ask) as hold:
                    await self._work(hold, scope, receive, answer)
        except (Refused, QuotaAway) as error:
            if answer.status:
                raise  # the answer is on its way already; the server's log is the place for this
            told = http_answer(error.decision) if isinstance(error, Refused) else away_answer()
            await _sent(told, send)

    async def _work(self, hold: Hold, scope: Event, receive: Receive, answer: "_Watched") -> None:
        answer.added = _raw(http_answer(hold.decision)) if hold.decision else []
        await self._app({**scope, HOLD_KEY: hold}, receive, answer)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WorkFailed


class _Watched:
    """The application's answer on its way out; `status` is 0 until it begins, and `added` are headers for it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.added: list[tuple[bytes, bytes]] = []

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            event = {**event, "headers": [*event.get("headers", ()), *self.added]}
        await self._send(event)


async def _sent(answer: HttpAnswer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _raw(answer)})
    await send({"type": "http.response.body", "body": answer.body})


def _raw(answer: HttpAnswer) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
