"""WSGI middleware that asks Holdgate before every request: one call decides all rates, gates and the quota."""

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2 as quota

POLICY = "kynasmith"
DEADLINE_S = 0.5
PHRASES = {403: "Forbidden", 429: "Too Many Requests", 503: "Service Unavailable"}
READS = {"GET", "HEAD"}
MOVESPEC = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Limited:
    """Lets a request through to `app` when Holdgate grants it, and answers in its place when not.

    The gateway has authenticated the caller and named organization and project in `X-Org` and `X-Project`.
    """

    def __init__(self, app: App, channel: grpc.Channel) -> None:
        self._app = app
        self._ask: Callable[..., quota.CheckAndReserveResponse] = channel.unary_unary(
            "/quota.v1.QuotaService/CheckAndReserve",
            request_serializer=quota.CheckAndReserveRequest.SerializeToString,
            response_deserializer=quota.CheckAndReserveResponse.FromString,
        )

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Asks, then forwards either the request or the refusal."""
        try:
            decision = self._ask(request_of(environ), timeout=DEADLINE_S).decision
        except grpc.RpcError:
            start_response(status_line(503), [("Retry-After", "1"), ("Content-Length", "0")])
            return []
        http = decision.http
        if decision.outcome != decided.OUTCOME_GRANTED:
            body = http.body.encode()
            headers = [*http.headers.items(), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            start_response(status_line(http.status), headers)
            return [body]

        def add_headers(status: str, headers: list[tuple[str, str]], *rest: object) -> object:
            return start_response(status, [*headers, *http.headers.items()], *rest)

        return self._app(environ, add_headers)


def status_line(status: int) -> str:
    """A status as WSGI wants it."""
    return f"{status} {PHRASES.get(status, 'Refused')}"


def request_of(environ: Environ) -> quota.CheckAndReserveRequest:
    """What the HTTP request asks Holdgate for."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    scope = {name: value for name, value in (("project", project_of(environ, path)),) if value}
    if method not in READS:
        scope["access"] = "write"
    return quota.CheckAndReserveRequest(
        policy=POLICY,
        tenant=environ.get("HTTP_X_ORG", ""),
        request_id=environ.get("HTTP_IDEMPOTENCY_KEY", ""),
        action=action_of(method, path),
        scope=scope,
    )


def project_of(environ: Environ, path: str) -> str:
    """The project that the path names, else the one that the gateway found."""
    _, found, project = path.partition("/projects/")
    return project if found else str(environ.get("HTTP_X_PROJECT", ""))


def action_of(method: str, path: str) -> str:
    """The policy's action for a route."""
    if path.startswith("/api/usage"):
        return "usage.read"
    if path == "/api/sessions" and method == "POST":
        return "session.create"
    if path.startswith("/api/movespecs"):
        return f"movespec.{MOVESPEC.get(method, 'read')}"
    return "api.call"
