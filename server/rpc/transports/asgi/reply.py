"""What goes back to the caller: headers, messages, and trailers that say how the call ended."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from grpc import StatusCode

from server.rpc.transports.asgi.framing import Disconnected, Event, framed, framed_gzip
from server.rpc.transports.asgi.metadata import Headers
from server.rpc.transports.asgi.status import CODES, escaped

Send: TypeAlias = Callable[[Event], Awaitable[None]]

_HEADERS: Final[Headers] = [(b"content-type", b"application/grpc")]
_GZIP: Final = (b"grpc-encoding", b"gzip")

# Nearly every call sends these, so they are built once; nobody changes them.
_START: Final[Event] = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_FLUSH: Final[Event] = {"type": "http.response.body", "body": b"", "more_body": True}
END: Final[Event] = {"type": "http.response.body", "body": b""}
"""Nothing more comes."""
_OK: Final[Event] = {"type": "http.response.trailers", "headers": [(b"grpc-status", CODES[StatusCode.OK])]}


def ending(code: StatusCode, message: str, trailing: Headers) -> Event:
    """All of an answer that is nothing but a status, made ahead; `END` goes behind it."""
    status = [(b"grpc-status", CODES[code]), (b"grpc-message", escaped(message))]
    return {"type": "http.response.start", "status": 200, "headers": _HEADERS + status + trailing}


class Reply:
    """The answer to one call. Sending raises Disconnected where the caller is no longer there to take it."""

    __slots__ = ("_frame", "_send", "code", "ended", "initial", "message", "started", "trailing")

    def __init__(self, send: Send) -> None:
        self._send: Final = send
        self._frame = framed
        self.code = StatusCode.OK
        self.message = ""
        self.initial: Headers = []
        self.trailing: Headers = []
        self.started = False
        self.ended = False

    def compress(self) -> None:
        """Lets messages go out as gzip, to a caller who reads it."""
        self._frame = framed_gzip
        self.initial.append(_GZIP)

    def fail(self, code: StatusCode, message: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The call ends with this status, whatever it was to end with."""
        self.code = code
        self.message = message
        self.initial += headers

    async def start(self) -> None:
        """Sends the headers, now."""
        self.started = True
        # h2corn keeps headers back until there is something of the body, be it nothing.
        await self._tell(self._start(), _FLUSH)

    async def write(self, message: bytes) -> None:
        """Sends one of several messages; returns when there is room for the next."""
        head = () if self.started else (self._start(),)
        self.started = True
        await self._tell(*head, {"type": "http.response.body", "body": self._frame(message), "more_body": True})

    async def end_with(self, message: bytes) -> None:
        """Sends the only message, and the status."""
        self.ended = True
        body = {"type": "http.response.body", "body": self._frame(message)}
        send = self._send
        try:  # as `_tell` does, without a coroutine more: it is how nearly every call ends
            if not self.started:
                await send(self._start())
            await send(body)
            await send({**_OK, "headers": self._status()} if self.trailing else _OK)
        except OSError as error:
            raise Disconnected from error

    async def end(self) -> None:
        """Sends the status."""
        self.ended = True
        if self.started:
            await self._tell(END, {**_OK, "headers": self._status()})
        elif self.code is StatusCode.OK:
            await self._tell(self._start(), END, {**_OK, "headers": self._status()})
        else:
            # Headers and trailers in one, which is how an error without a message travels.
            headers = _HEADERS + self.initial + self._status()
            await self._tell({"type": "http.response.start", "status": 200, "headers": headers}, END)

    def _start(self) -> Event:
        return {**_START, "headers": _HEADERS + self.initial} if self.initial else _START

    async def _tell(self, *events: Event) -> None:
        try:
            for event in events:
                await self._send(event)
        except OSError as error:
            raise Disconnected from error

    def _status(self) -> Headers:
        status = [(b"grpc-status", CODES[self.code])]
        if self.message:
            status.append((b"grpc-message", escaped(self.message)))
        return status + self.trailing
