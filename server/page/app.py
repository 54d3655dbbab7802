"""The page over HTTP, as an ASGI application. It answers GET and HEAD, knows nobody, and lets nothing be embedded."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from server.administration import Administration
from server.domain.errors import AccountNotFoundError, HoldgateError, InvalidRequestError
from server.domain.operation import TenantRef
from server.gate import QuotaGate
from server.logs import log
from server.page import render
from server.page.figures import tenant_figures
from server.page.html import Html

Event: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_HTML: Final = "text/html; charset=utf-8"
_FILES: Final = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SCOPE: Final = "scope."
_MOST_FIELDS: Final = 64


class Refused(Exception):
    """The request cannot be answered; the status says why."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class PageApp:
    """`policies` names the policies there are. On a loopback address other names than that are not answered to: a
    foreign site could have its own name lead here.
    """

    def __init__(
        self,
        gate: QuotaGate,
        administration: Administration,
        policies: Callable[[], tuple[str, ...]],
        *,
        within_s: float,
        loopback: bool,
    ) -> None:
        self._gate = gate
        self._administration = administration
        self._policies = policies
        self._within_s = within_s
        self._loopback = loopback
        self._texts = {path: files(__package__).joinpath(path[1:]).read_bytes() for path in _FILES}

    async def __call__(self, scope: Event, _receive: object, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            status, kind, body = await self._answer(scope)
        except Refused as refused:
            status, kind, body = refused.status, "text/plain; charset=utf-8", refused.text.encode()
        except Exception:  # noqa: BLE001  # whatever it was, the log has it and the reader is told
            log.exception("page.failed", path=scope["path"])
            status, kind, body = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "text/plain",
                b"The server failed; its log has the cause.",
            )
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *_HEADERS]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Event) -> tuple[HTTPStatus, str, bytes]:
        self._must_be_welcome(scope)
        path = scope["path"]
        if path in self._texts:
            return HTTPStatus.OK, _FILES[path], self._texts[path]
        if path not in {"/", "/live"}:
            raise Refused(HTTPStatus.NOT_FOUND, "There is the page at / and nothing else.")
        try:
            asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, f"The address asks for more than {_MOST_FIELDS} things.") from None
        status, main = await self._main(asked)
        if path == "/live":
            return status, _HTML, main.text.encode()
        return status, _HTML, self._page(asked, main)

    def _must_be_welcome(self, scope: Event) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "The page is only read: GET or HEAD.")
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._loopback and name not in _LOOPBACK:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"This is the page of {', '.join(sorted(_LOOPBACK))} alone.")

    async def _main(self, asked: Mapping[str, str]) -> tuple[HTTPStatus, Html]:
        if not asked.get("tenant"):
            return HTTPStatus.OK, render.welcome()
        ref = TenantRef(asked.get("policy", ""), asked["tenant"])
        scope = {name.removeprefix(_SCOPE): value for name, value in asked.items() if name.startswith(_SCOPE) and value}
        try:
            figures = await tenant_figures(self._gate, self._administration, ref, scope, self._within_s)
        except InvalidRequestError as error:
            return HTTPStatus.BAD_REQUEST, render.problem(error.message)
        except AccountNotFoundError as error:
            return HTTPStatus.NOT_FOUND, render.problem(error.message)
        except HoldgateError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, render.problem(error.message)
        return HTTPStatus.OK, render.tenant(figures)

    def _page(self, asked: Mapping[str, str], main: Html) -> bytes:
        policies = self._policies()
        chosen = asked.get("policy") or policies[0]
        dimensions = tuple(sorted(self._gate.policy(chosen).dimensions)) if chosen in policies else ()
        title = f"{asked['tenant']} · Holdgate usage" if asked.get("tenant") else "Holdgate usage"
        return render.page(title, policies, {**asked, "policy": chosen}, dimensions, main)
