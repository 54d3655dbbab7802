"""A client that speaks HTTP/2 by hand, so that it can say what no gRPC client would."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Self

from google.protobuf.wrappers_pb2 import StringValue
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

PATIENCE_S: Final = 10.0
"""Longest wait for an answer that has to come."""

_READ_BYTES: Final = 65_536


@dataclass(slots=True)
class Answer:
    """All that came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def http_status(self) -> int:
        return int(self.headers[":status"])

    @property
    def grpc_status(self) -> int:
        """The status, from the trailers or, where nothing else came, from the headers."""
        return int((self.trailers or self.headers)["grpc-status"])

    @property
    def grpc_message(self) -> str:
        return (self.trailers or self.headers)["grpc-message"]

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class RawClient:
    """One connection; frames go out as they are asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self._reader = reader
        self._writer = writer
        self._authority = authority
        # What is wrong shall go out as it is.
        config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self._h2 = H2Connection(config)
        self._answers: dict[int, Answer] = {}

    @classmethod
    @asynccontextmanager
    async def to(cls, address: str) -> AsyncIterator[Self]:
        """A connection to `host:port`."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        client = cls(reader, writer, address)
        client._h2.initiate_connection()
        await client.flush()
        try:
            yield client
        finally:
            writer.close()

    def open(  # noqa: PLR0913  # each is something that may be said wrong
        self,
        method: str,
        *,
        content_type: str | None = "application/grpc",
        te: str | None = "trailers",
        verb: str = "POST",
        more: Iterable[tuple[str, str]] = (),
        end: bool = False,
    ) -> int:
        """Sends the headers of a call to `service/method`; its stream."""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", verb),
            (":scheme", "http"),
            (":path", f"/{method}"),
            (":authority", self._authority),
            *([("te", te)] if te else []),
            *([("content-type", content_type)] if content_type else []),
            *more,
        ]
        self._h2.send_headers(stream, headers, end_stream=end)
        self._answers[stream] = Answer()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends a piece of the body, in as many frames as it needs; it has to fit the server's window."""
        while len(data) > self._h2.max_outbound_frame_size:
            self._h2.send_data(stream, data[: self._h2.max_outbound_frame_size])
            data = data[self._h2.max_outbound_frame_size :]
        self._h2.send_data(stream, data, end_stream=end)

    def reset(self, stream: int) -> None:
        """Cancels the call."""
        self._h2.reset_stream(stream, 8)

    async def flush(self) -> None:
        """Lets everything go that was to be sent."""
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def try_flush(self) -> bool:
        """As `flush`; whether the connection still takes it."""
        try:
            await self.flush()
        except ConnectionError:
            return False
        return True

    async def send_bytes(self, data: bytes) -> None:
        """Sends what is not even HTTP/2."""
        self._writer.write(data)
        await self._writer.drain()

    async def until_closed(self) -> None:
        """Waits for the server to end the connection."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionResetError):
                while await self._reader.read(_READ_BYTES):
                    pass

    async def answer(self, stream: int) -> Answer:
        """What came back, once it is complete."""
        await self.flush()
        answer = self._answers[stream]
        async with asyncio.timeout(PATIENCE_S):
            while not answer.over:
                await self._read()
        return answer

    async def call(self, method: str, data: bytes, more: Iterable[tuple[str, str]] = ()) -> Answer:
        """Calls with this body; the answer."""
        stream = self.open(method, more=more)
        self.send(stream, data, end=True)
        return await self.answer(stream)

    async def _read(self) -> None:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        for event in self._h2.receive_data(data):
            self._take(event)
        await self.flush()

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=stream, headers=headers):
                self._answers[stream or 0].headers = _texts(headers or ())
            case TrailersReceived(stream_id=stream, headers=headers):
                self._answers[stream or 0].trailers = _texts(headers or ())
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
                self._answers[stream or 0].body += data or b""
                if length:
                    self._h2.acknowledge_received_data(length, stream or 0)
            case StreamEnded(stream_id=stream):
                self._answers[stream or 0].ended = True
            case StreamReset(stream_id=stream, error_code=code):
                self._answers[stream or 0].reset = int(code or 0)
            case _:
                pass


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


def text(value: str) -> bytes:
    """A StringValue, serialized."""
    return StringValue(value=value).SerializeToString()


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A message with its prefix; `length` may lie."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message
