"""May this request go ahead? As one plain HTTP request, for proxies that ask a subrequest: nginx's `auth_request`.

The question is in headers: X-Quota-Policy, X-Quota-Tenant, X-Quota-Action, X-Quota-Request-Id, and, as NAME=VALUE
separated by commas, X-Quota-Scope and X-Quota-Amounts. The answer is 204, or 403 with X-Quota-Status, which is the
status that the policy gives the refusal; headers for the client come along. nginx knows no other way to say no than
401 and 403.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from server.domain.decision import Decision
from server.domain.errors import (
    HoldgateError,
    InvalidRequestError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from server.domain.operation import Operation, TenantRef
from server.gate import QuotaGate
from server.rpc import errors
from server.rpc.proxies.deciding import decided
from server.rpc.proxies.headers import HeaderVersion, http_answer, ratelimit_headers

PATH: Final = "/authorize"
"""Where it is served."""

_NO_CONTENT: Final = 204
_FORBIDDEN: Final = 403
_BAD_REQUEST: Final = 400
_UNAVAILABLE: Final = 503

_UNITS: Final = re.compile(r"[0-9]{1,16}")
_SHOWN: Final = 64
"""Characters of a bad amount that an error repeats."""

_ASKERS_FAULTS: Final = (InvalidRequestError, UnauthenticatedError, PermissionDeniedError)

Event: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Event], Awaitable[None]]


class Authorize:
    """An ASGI application; no request waits longer than `store_timeout_s` seconds for the store.

    `let_in` raises where the one who asks, by the request's scope, may not.
    """

    def __init__(
        self, gate: QuotaGate, store_timeout_s: float, let_in: Callable[[Event], None] = lambda _scope: None
    ) -> None:
        self._gate = gate
        self._store_timeout_s = store_timeout_s
        self._let_in = let_in

    async def __call__(self, scope: Event, _receive: object, send: Send) -> None:
        """Answers one request, of whatever method."""
        try:
            self._let_in(scope)
            operation = _operation({name.decode("latin-1"): _text(value) for name, value in scope["headers"]})
            named, within_s = bool(operation.request_id), self._store_timeout_s
            decision = await decided(self._gate, operation, named=named, within_s=within_s)
        except HoldgateError as error:
            # Neither 401 nor 403: nginx would hand them on as if the caller's own client had been refused.
            status = _BAD_REQUEST if isinstance(error, _ASKERS_FAULTS) else _UNAVAILABLE
            body = errors.clipped(error.message, errors.MAX_MESSAGE_BYTES).encode()
            await _send(send, status, {"Content-Type": "text/plain; charset=utf-8"}, body)
            return
        await _send(send, *_answer(decision))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _operation(headers: Mapping[str, str]) -> Operation:
    return Operation(
        ref=TenantRef(headers.get("x-quota-policy", ""), headers.get("x-quota-tenant", "")),
        action=headers.get("x-quota-action", ""),
        request_id=headers.get("x-quota-request-id", ""),
        scope=dict(_pairs("x-quota-scope", headers)),
        amounts={name: _units(name, units) for name, units in _pairs("x-quota-amounts", headers)},
    )


def _pairs(header: str, headers: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for part in filter(None, map(str.strip, headers.get(header, "").split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise InvalidRequestError.of(header, f"has {part!r}; expected NAME=VALUE, separated by commas")
        yield name, value


def _units(name: str, text: str) -> int:
    if not _UNITS.fullmatch(text):
        said = f"is {text[:_SHOWN]!r}; expected a whole number of base units of at most 16 digits"
        raise InvalidRequestError.of(f"x-quota-amounts[{name}]", said)
    return int(text)


def _answer(decision: Decision) -> tuple[int, dict[str, str], bytes]:
    status, told, body = http_answer(decision)
    # Both spellings: the proxy hands on the one that its clients know.
    headers = {name: value for version in HeaderVersion for name, value in ratelimit_headers(decision, version).items()}
    headers |= told
    if decision.refusal is not None:
        return _FORBIDDEN, {**headers, "X-Quota-Status": str(status), "X-Quota-Code": decision.refusal.code}, body
    if decision.position:
        return _FORBIDDEN, {**headers, "X-Quota-Status": str(status), "X-Quota-Code": decision.outcome}, body
    if decision.lease:
        headers["X-Quota-Hold"] = decision.lease.hold_id
    return _NO_CONTENT, headers, b""


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    if status != _NO_CONTENT:
        raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
