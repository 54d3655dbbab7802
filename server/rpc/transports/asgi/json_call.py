"""Unary methods as JSON over plain HTTP: the unary form of the Connect protocol, for curl, scripts and proxies."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Never

import orjson
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio

from server.logs import log
from server.rpc.transports.asgi import metadata
from server.rpc.transports.asgi.call import Method, Outgoing
from server.rpc.transports.asgi.framing import Disconnected, Event, Receive
from server.rpc.transports.asgi.reply import Send
from server.rpc.transports.asgi.status import CallFailed
from server.rpc.transports.base import MAX_REQUEST_BYTES

MEDIA_TYPE: Final = b"application/json"

_DETAILS_KEY: Final = "grpc-status-details-bin"
_TIMEOUT: Final = b"connect-timeout-ms"
_DIGITS: Final = re.compile(rb"[0-9]{1,10}")
"""How a timeout is written, as the Connect protocol has it."""

HTTP_STATUSES: Final[Mapping[StatusCode, int]] = MappingProxyType(
    {
        StatusCode.OK: 200,
        StatusCode.CANCELLED: 499,
        StatusCode.UNKNOWN: 500,
        StatusCode.INVALID_ARGUMENT: 400,
        StatusCode.DEADLINE_EXCEEDED: 504,
        StatusCode.NOT_FOUND: 404,
        StatusCode.ALREADY_EXISTS: 409,
        StatusCode.PERMISSION_DENIED: 403,
        StatusCode.RESOURCE_EXHAUSTED: 429,
        StatusCode.FAILED_PRECONDITION: 400,
        StatusCode.ABORTED: 409,
        StatusCode.OUT_OF_RANGE: 400,
        StatusCode.UNIMPLEMENTED: 501,
        StatusCode.INTERNAL: 500,
        StatusCode.UNAVAILABLE: 503,
        StatusCode.DATA_LOSS: 500,
        StatusCode.UNAUTHENTICATED: 401,
    }
)
"""The HTTP status of each gRPC status, as the Connect protocol has them."""


class _Failed(aio.AbortError):
    """The call ends with this status; `details` is a serialized google.rpc.Status, or empty."""

    def __init__(self, code: StatusCode, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class JsonCall:
    """What of a servicer's context a unary method may use."""

    def __init__(self, scope: Event) -> None:
        headers = dict(scope["headers"])
        self._scope = scope
        self._deadline_s: float | None = None
        self._code = StatusCode.OK
        if (timeout := headers.get(_TIMEOUT)) is not None:
            if not _DIGITS.fullmatch(timeout):
                text = "connect-timeout-ms is no whole number of milliseconds of at most 10 digits"
                raise _Failed(StatusCode.INVALID_ARGUMENT, text)
            self._deadline_s = monotonic() + int(timeout) / 1000

    def invocation_metadata(self) -> metadata.Metadata:
        """The caller's headers, without what belongs to the transport."""
        try:
            return metadata.decoded(self._scope["headers"])
        except CallFailed as failure:
            raise _Failed(StatusCode.INVALID_ARGUMENT, failure.message) from failure

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS says about the caller, by grpcio's names; empty without TLS."""
        return metadata.tls_facts(self._scope)

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, never below 0; None when the caller set none."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - monotonic())

    def code(self) -> StatusCode:
        """The status that the call was given."""
        return self._code

    async def abort(self, code: StatusCode, details: str = "", trailing_metadata: Outgoing = ()) -> Never:
        """Ends the call with an error; what it raises is not to be caught."""
        self._code = code
        status = next((value for key, value in trailing_metadata if key == _DETAILS_KEY), b"")
        raise _Failed(code, details, status if isinstance(status, bytes) else b"")


async def answer(method: Method | None, scope: Event, receive: Receive, send: Send) -> None:
    """Answers one request; `method` is None where there is none at the path."""
    try:
        status, body = StatusCode.OK, await _answered(method, scope, receive)
    except _Failed as failure:
        status, body = failure.code, _error(failure)
    except TimeoutError:
        status = StatusCode.DEADLINE_EXCEEDED
        body = _error(_Failed(status, "the deadline ended before there was an answer"))
    except (Disconnected, asyncio.CancelledError):
        raise
    except Exception:  # noqa: BLE001  # whatever it was, the caller is told and the log has it
        log.exception("rpc.failed", rpc=scope["path"])
        status = StatusCode.UNKNOWN
        body = _error(_Failed(status, "the server failed; its log has the cause"))
    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": HTTP_STATUSES[status], "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answered(method: Method | None, scope: Event, receive: Receive) -> bytes:
    if method is None or method.takes_stream or method.gives_stream:
        raise _Failed(StatusCode.UNIMPLEMENTED, f"there is no unary method {scope['path']}")
    call = JsonCall(scope)
    request = method.deserialize(b"")
    try:
        json_format.Parse(await _body(receive), request)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise _Failed(StatusCode.INVALID_ARGUMENT, f"the body is not the method's message as JSON: {error}") from error
    async with asyncio.timeout(call.time_remaining()):
        response: Any = await method.behaviour(request, call)  # type: ignore[arg-type]  # all that a unary method uses
    return json_format.MessageToJson(response, indent=None, ensure_ascii=False).encode()


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise Disconnected
        body += event.get("body", b"")
        if len(body) > MAX_REQUEST_BYTES:
            text = f"the body is larger than {MAX_REQUEST_BYTES} bytes"
            raise _Failed(StatusCode.RESOURCE_EXHAUSTED, text)
        if not event.get("more_body"):
            return bytes(body)


def _error(failure: _Failed) -> bytes:
    told: dict[str, object] = {"code": failure.code.name.lower(), "message": failure.message}
    if failure.details:
        told["details"] = [
            {
                "type": detail.TypeName(),
                "value": b64encode(detail.value).rstrip(b"=").decode(),
                "debug": {key: value for key, value in json_format.MessageToDict(detail).items() if key != "@type"},
            }
            for detail in Status.FromString(failure.details).details
        ]
    return orjson.dumps(told)
