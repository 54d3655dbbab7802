"""Messages in a body: each has five bytes before it, a flag that says whether it is compressed, and its length."""

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from struct import Struct
from typing import Any, Final, TypeAlias

from grpc import StatusCode

from server.rpc.transports.asgi.status import CallFailed
from server.rpc.transports.base import MAX_REQUEST_BYTES

Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]

_READS: Final = (b"grpc-accept-encoding", b"identity,gzip")
_PREFIX: Final = Struct(">BI")
_PREFIX_BYTES: Final = _PREFIX.size
_PLAIN: Final = 0
_COMPRESSED: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS
_WORTH_COMPRESSING_BYTES: Final = 1024
"""Below this, gzip costs more than the bytes that it saves."""


class Disconnected(Exception):
    """The caller went away before the end of what it had to say."""


class Requests:
    """The messages of one request body, as they come in; none is longer than the largest request that is taken."""

    __slots__ = ("_buffer", "_ended", "_gzip", "_receive")

    def __init__(self, receive: Receive, encoding: bytes | None) -> None:
        if encoding not in {None, b"identity", b"gzip"}:
            text = f"grpc-encoding is {encoding.decode('latin-1')!r}; this server reads identity and gzip"
            raise CallFailed(StatusCode.UNIMPLEMENTED, text, _READS)
        self._receive = receive
        self._gzip = encoding == b"gzip"
        self._buffer = bytearray()
        self._ended = False

    async def next(self) -> bytes | None:
        """The next message; None after the last."""
        while True:
            if self._buffer and (message := self._taken()) is not None:
                return message
            if self._ended:
                if self._buffer:
                    raise CallFailed(StatusCode.INTERNAL, "the request ends within a message")
                return None
            if (message := self._read(await self._receive())) is not None:
                return message

    async def skip(self) -> None:
        """Passes over whatever is still to come."""
        while not self._ended:
            event = await self._receive()
            self._ended = event["type"] != "http.request" or not event.get("more_body")

    async def only(self) -> bytes:
        """The message of a method that takes exactly one."""
        message = self._read(await self._receive())
        if message is None:
            message = await self.next()
        if message is None:
            raise CallFailed(StatusCode.UNIMPLEMENTED, "the request has no message; the method takes one")
        if self._buffer:
            raise CallFailed(StatusCode.UNIMPLEMENTED, "the request goes on after its message; the method takes one")
        return message

    def _read(self, event: Event) -> bytes | None:
        """Takes in a part of the body; the message, where it is one as a whole, as nearly every body is: such a one
        needs no buffer.
        """
        if event["type"] != "http.request":
            raise Disconnected
        self._ended = not event.get("more_body")
        body: bytes = event.get("body", b"")
        # A flag of 0 before the length makes both one number.
        if not self._buffer and int.from_bytes(body[:_PREFIX_BYTES]) == len(body) - _PREFIX_BYTES <= MAX_REQUEST_BYTES:
            return body[_PREFIX_BYTES:]
        self._buffer += body
        return None

    def _taken(self) -> bytes | None:
        """The first message of the buffer, once it is there as a whole."""
        if len(self._buffer) < _PREFIX_BYTES:
            return None
        flag, length = _PREFIX.unpack_from(self._buffer)
        if flag > _COMPRESSED:
            raise CallFailed(StatusCode.INTERNAL, f"a message has the flag {flag}; expected 0 or 1")
        if flag == _COMPRESSED and not self._gzip:
            raise CallFailed(StatusCode.INTERNAL, "a message is flagged as compressed, without a grpc-encoding")
        if length > MAX_REQUEST_BYTES:
            raise _too_large(length)
        end = _PREFIX_BYTES + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_PREFIX_BYTES:end])
        del self._buffer[:end]
        return _inflated(message) if flag == _COMPRESSED else message


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(_GZIP)
    try:
        message = inflater.decompress(data, MAX_REQUEST_BYTES + 1)
    except zlib.error as error:
        raise CallFailed(StatusCode.INTERNAL, f"a message is not gzip as it claims: {error}") from error
    if len(message) > MAX_REQUEST_BYTES:
        raise _too_large(len(message))
    if not inflater.eof or inflater.unused_data:
        raise CallFailed(StatusCode.INTERNAL, "a message is not one whole gzip stream")
    return message


def _too_large(length: int) -> CallFailed:
    text = f"SERVER: Received message larger than max ({length} vs. {MAX_REQUEST_BYTES})"
    return CallFailed(StatusCode.RESOURCE_EXHAUSTED, text)


def framed(message: bytes) -> bytes:
    """The message as it travels."""
    return _PREFIX.pack(_PLAIN, len(message)) + message


def framed_gzip(message: bytes) -> bytes:
    """The message as it travels to a caller who reads gzip."""
    if len(message) < _WORTH_COMPRESSING_BYTES:
        return framed(message)
    deflater = zlib.compressobj(level=1, wbits=_GZIP)
    data = deflater.compress(message) + deflater.flush()
    return _PREFIX.pack(_COMPRESSED, len(data)) + data
