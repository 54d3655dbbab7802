"""A gRPC client that costs little: what it saves is left to the server that is measured.

It speaks as much HTTP/2 (RFC 9113) as gRPC calls need, on one connection without TLS. Headers that are the same in
every call are put into the peer's table by the first one, as other clients do. Trailers are not read: a call that ends
without a message has failed.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

OnMessage = Callable[[bytes], None]
"""Takes a message of an answer; an empty one when the call failed."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS: Final = 4
_ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 2, 3, 4
_LARGEST_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535
_LARGEST_FRAME: Final = 16_384
_FIRST_MOST_CALLS: Final = 100
"""Calls at once until the peer says how many it takes."""
_FRAME: Final = struct.Struct(">BHBBI")
_SETTING: Final = struct.Struct(">HI")
_NUMBER: Final = struct.Struct(">I")
_MESSAGE: Final = struct.Struct(">BI")

_SAME_HEADERS: Final = (
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"holdgate-benchmarks"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"grpc-timeout", b"3600S"),  # a stream lasts as long as its section
)
_FIRST_KEPT: Final = 62
"""Where HPACK's table of kept headers begins."""
_POST_HTTP, _PATH, _KEPT_AUTHORITY, _KEPT, _INDEXED = b"\x83\x86", b"\x04", b"\x41", b"\x40", 0x80
"""HPACK: two entries of its static table, a name from there with a value that is not kept, one that is kept."""


class Connection(asyncio.Protocol):
    """One connection, which carries any number of calls at once."""

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode()
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._calls: dict[int, _Call] = {}
        self._last_number = -1
        self._window = self._first_window = _DEFAULT_WINDOW
        self._unsent: deque[tuple[_Call, bytes, int]] = deque()
        self._headers_kept = False
        self._most_calls = _FIRST_MOST_CALLS
        self._unopened: deque[tuple[bytes, bytes, OnMessage]] = deque()

    def call(self, path: bytes, message: bytes, on_message: OnMessage) -> None:
        """One unary call, which is over with its answer. It waits while the peer takes no more of them at once."""
        if len(self._calls) < self._most_calls:
            self._send(self._open(path, on_message, unary=True), message, _END_STREAM)
        else:
            self._unopened.append((path, message, on_message))

    def stream(self, path: bytes, on_message: OnMessage) -> Callable[[bytes], None]:
        """A call of many messages in both directions; the way to send one."""
        call = self._open(path, on_message, unary=False)
        return lambda message: self._send(call, message, 0)

    def close(self) -> None:
        """Hangs up."""
        self._calls.clear()
        self._unopened.clear()
        self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduces itself, and opens windows wider than a benchmark fills."""
        self._transport = cast("asyncio.Transport", transport)
        settings = _SETTING.pack(_ENABLE_PUSH, 0) + _SETTING.pack(_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        window = _NUMBER.pack(_LARGEST_WINDOW - _DEFAULT_WINDOW)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # calls end alike, whatever the reason
        """Fails the calls under way."""
        calls, self._calls = self._calls, {}
        unopened, self._unopened = self._unopened, deque()
        for call in calls.values():
            call.on_message(b"")
        for _, _, on_message in unopened:
            on_message(b"")

    def data_received(self, data: bytes) -> None:
        """Takes frames apart."""
        received = self._received
        received += data
        start = 0
        while len(received) - start >= _FRAME.size:
            high, low, kind, flags, number = _FRAME.unpack_from(received, start)
            body = start + _FRAME.size
            end = body + (high << 16 | low)
            if len(received) < end:
                break
            if kind == _DATA:
                self._calls[number].take(received[body:end])
            elif kind != _HEADERS:
                self._control(kind, flags, number, bytes(received[body:end]))
            if flags & _END_STREAM and kind in {_DATA, _HEADERS}:
                self._end(number)
            start = end
        del received[:start]

    def _control(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._widen(number, _NUMBER.unpack(body)[0])
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in _SETTING.iter_unpack(body):
                if name == _INITIAL_WINDOW_SIZE:
                    self._widen_all(value - self._first_window)
                elif name == _MAX_CONCURRENT_STREAMS:
                    self._most_calls = value
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, body))
        elif kind == _RST_STREAM:
            if number in self._calls:
                self._end(number)
        elif kind == _GOAWAY:
            self._transport.abort()

    def _end(self, number: int) -> None:
        self._calls.pop(number).end()
        if self._unopened and len(self._calls) < self._most_calls:
            self.call(*self._unopened.popleft())

    def _widen_all(self, by: int) -> None:
        """Calls that were begun before the peer introduced itself get the window that it meant as well."""
        self._first_window += by
        for call in self._calls.values():
            call.window += by
        self._flush()

    def _widen(self, number: int, by: int) -> None:
        if number == 0:
            self._window += by
        elif (call := self._calls.get(number)) is not None:
            call.window += by
        self._flush()

    def _open(self, path: bytes, on_message: OnMessage, *, unary: bool) -> "_Call":
        self._last_number = number = self._last_number + 2
        call = self._calls[number] = _Call(number, self._first_window, on_message, unary=unary)
        self._transport.write(_frame(_HEADERS, _END_HEADERS, number, self._headers(path)))
        return call

    def _headers(self, path: bytes) -> bytes:
        block = _POST_HTTP + _PATH + _text(path)
        if self._headers_kept:
            newest, oldest = _FIRST_KEPT, _FIRST_KEPT + len(_SAME_HEADERS)
            return block + bytes(_INDEXED | place for place in range(oldest, newest - 1, -1))
        self._headers_kept = True
        named = (_KEPT + _text(name) + _text(value) for name, value in _SAME_HEADERS)
        return block + _KEPT_AUTHORITY + _text(self._authority) + b"".join(named)

    def _send(self, call: "_Call", message: bytes, flags: int) -> None:
        body = _MESSAGE.pack(0, len(message)) + message
        while len(body) > _LARGEST_FRAME:
            self._unsent.append((call, body[:_LARGEST_FRAME], 0))
            body = body[_LARGEST_FRAME:]
        self._unsent.append((call, body, flags))
        self._flush()

    def _flush(self) -> None:
        """Sends what the peer's windows have room for, in order."""
        unsent = self._unsent
        while unsent:
            call, body, flags = unsent[0]
            if len(body) > min(self._window, call.window):
                return
            unsent.popleft()
            self._window -= len(body)
            call.window -= len(body)
            self._transport.write(_frame(_DATA, flags, call.number, body))


class _Call:
    """One call: what came of its answer so far, and how much it may still send."""

    __slots__ = ("_received", "_unary", "number", "on_message", "window")

    def __init__(self, number: int, window: int, on_message: OnMessage, *, unary: bool) -> None:
        self.number = number
        self.window = window
        self.on_message = on_message
        self._unary = unary
        self._received = bytearray()

    def take(self, data: bytearray) -> None:
        """Part of the answer; messages of a stream are handed on as they are complete."""
        self._received += data
        if not self._unary:
            self._hand_on()

    def end(self) -> None:
        """The answer is complete."""
        if not self._received:
            self.on_message(b"")
        self._hand_on()

    def _hand_on(self) -> None:
        received = self._received
        start = 0
        while len(received) - start >= _MESSAGE.size:
            _, length = _MESSAGE.unpack_from(received, start)
            end = start + _MESSAGE.size + length
            if len(received) < end:
                break
            self.on_message(bytes(received[start + _MESSAGE.size : end]))
            start = end
        del received[:start]


async def connect(address: str) -> Connection:
    """A connection to `host:port`."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(address), host, int(port))
    return connection


def _frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return _FRAME.pack(len(body) >> 16, len(body) & 0xFFFF, kind, flags, number) + body


def _text(text: bytes) -> bytes:
    """A string for HPACK, shorter than 127 bytes."""
    return bytes([len(text)]) + text
