"""What no well-behaved client would send: each is answered as the protocol says, and nobody else notices.

grpcio's own server lets some of it pass, or never answers it; there, only that others are unharmed is asked for.
"""

import gzip
from collections.abc import AsyncIterator, Iterable

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode

from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.transport.conftest import Served
from tests.rpc.transport.probe import SERVICE, ProbeStub
from tests.rpc.transport.raw import RawClient, frame, text

ECHO = f"{SERVICE}/Echo"
JOIN = f"{SERVICE}/Join"
X = text("x")
X_FRAMED = frame(X)
GZIPPED = [("grpc-encoding", "gzip")]

INTERNAL = StatusCode.INTERNAL
EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED
UNIMPLEMENTED = StatusCode.UNIMPLEMENTED


@pytest.fixture(autouse=True)
async def _others_are_unharmed(stub: ProbeStub) -> AsyncIterator[None]:
    await stub.Echo(StringValue())
    yield
    assert (await stub.Echo(StringValue(value="still here"))).value == "still here"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        pytest.param(INTERNAL, frame(X, flag=1), [], id="compressed-without-encoding"),
        pytest.param(INTERNAL, frame(X, flag=1), [("grpc-encoding", "identity")], id="compressed-as-identity"),
        pytest.param(INTERNAL, frame(b"nonsense", flag=1), GZIPPED, id="no-gzip"),
        pytest.param(INTERNAL, frame(gzip.compress(X)[:-3], flag=1), GZIPPED, id="gzip-cut-short"),
        pytest.param(INTERNAL, frame(gzip.compress(X) + b"more", flag=1), GZIPPED, id="gzip-and-more"),
        pytest.param(EXHAUSTED, frame(X, length=MAX_REQUEST_BYTES + 1), [], id="length-above-the-largest"),
        pytest.param(EXHAUSTED, frame(X, length=0xFFFFFFFF), [], id="length-of-4-GiB"),
        pytest.param(EXHAUSTED, frame(gzip.compress(bytes(40_000_000)), flag=1), GZIPPED, id="gzip-bomb"),
        pytest.param(INTERNAL, X_FRAMED, [("grpc-timeout", "soon")], id="timeout-is-a-word"),
        pytest.param(INTERNAL, X_FRAMED, [("grpc-timeout", "5")], id="timeout-without-unit"),
        pytest.param(UNIMPLEMENTED, X_FRAMED, [(":path", "/probe.Probe/Nothing")], id="unknown-method"),
    ],
)
async def test_bad_requests_get_their_status(
    raw: RawClient, status: StatusCode, body: bytes, headers: Iterable[tuple[str, str]]
) -> None:
    named = dict(headers)
    method = named.pop(":path", f"/{ECHO}")[1:]
    answer = await raw.call(method, body, named.items())
    assert (answer.http_status, answer.grpc_status) == (200, status.value[0])
    assert answer.grpc_message


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [
        pytest.param(INTERNAL, ECHO, X_FRAMED[:-1], id="ends-within-a-message"),
        pytest.param(INTERNAL, ECHO, X_FRAMED[:3], id="ends-within-a-prefix"),
        pytest.param(INTERNAL, JOIN, X_FRAMED + X_FRAMED[:-1], id="stream-ends-within-a-message"),
        pytest.param(INTERNAL, ECHO, frame(X, flag=7), id="unknown-flag"),
        pytest.param(INTERNAL, ECHO, b"GET / HTTP/1.1\r\n\r\n", id="other-protocol"),
        pytest.param(UNIMPLEMENTED, ECHO, b"", id="no-message"),
        pytest.param(UNIMPLEMENTED, ECHO, X_FRAMED * 2, id="two-messages"),
    ],
)
async def test_bodies_that_grpcio_lets_pass_or_hang(
    served: Served, raw: RawClient, status: StatusCode, method: str, body: bytes
) -> None:
    stream = raw.open(method)
    raw.send(stream, body, end=True)
    await raw.flush()
    if served.name == "asgi":
        assert (await raw.answer(stream)).grpc_status == status.value[0]


async def test_an_unknown_encoding_is_answered_with_those_that_are_known(served: Served, raw: RawClient) -> None:
    answer = await raw.call(ECHO, frame(X, flag=1), [("grpc-encoding", "snappy")])
    if served.name == "asgi":
        assert answer.grpc_status == UNIMPLEMENTED.value[0]
        assert answer.headers["grpc-accept-encoding"] == "identity,gzip"
    else:
        assert answer.grpc_status == INTERNAL.value[0]


async def test_metadata_that_is_not_base64_is_an_error(raw: RawClient) -> None:
    answer = await raw.call(f"{SERVICE}/Metadata", X_FRAMED, [("x-bin", "***")])
    assert answer.grpc_status == INTERNAL.value[0]


@pytest.mark.parametrize("content_type", ["text/html", "application/grpc-web", "text/json", None])
async def test_what_is_no_grpc_is_not_taken_for_it(served: Served, raw: RawClient, content_type: str | None) -> None:
    stream = raw.open(ECHO, content_type=content_type)
    raw.send(stream, X_FRAMED, end=True)
    answer = await raw.answer(stream)
    if served.name == "asgi":
        assert answer.http_status == 415


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc; a=b", "Application/GRPC"],
)
async def test_grpc_is_known_by_any_of_its_names(raw: RawClient, content_type: str) -> None:
    stream = raw.open(ECHO, content_type=content_type)
    raw.send(stream, X_FRAMED, end=True)
    answer = await raw.answer(stream)
    assert (answer.grpc_status, answer.body) == (0, X_FRAMED)


@pytest.mark.parametrize("verb", ["GET", "PUT"])
async def test_only_a_post_is_a_call(served: Served, raw: RawClient, verb: str) -> None:
    answer = await raw.answer(raw.open(ECHO, verb=verb, end=True))
    if served.name == "asgi":
        assert (answer.http_status, answer.headers["allow"]) == (405, "POST")
    else:
        assert answer.reset


async def test_a_caller_that_takes_no_trailers_gets_no_answer_that_needs_them(served: Served, raw: RawClient) -> None:
    stream = raw.open(ECHO, te=None)
    raw.send(stream, X_FRAMED, end=True)
    answer = await raw.answer(stream)
    if served.name == "asgi":
        assert answer.grpc_status == INTERNAL.value[0]
    else:
        assert answer.reset


async def test_metadata_beyond_all_measure_is_refused(served: Served, raw: RawClient) -> None:
    answer = await raw.call(ECHO, X_FRAMED, [(f"x-{number}", "y" * 8000) for number in range(12)])
    if served.name == "asgi":
        assert answer.http_status == 431


async def test_a_message_may_come_byte_by_byte(raw: RawClient) -> None:
    stream = raw.open(ECHO)
    for byte in X_FRAMED:
        raw.send(stream, bytes([byte]))
        await raw.flush()
    raw.send(stream, b"", end=True)
    answer = await raw.answer(stream)
    assert (answer.grpc_status, answer.body) == (0, X_FRAMED)


async def test_many_messages_may_come_at_once(raw: RawClient) -> None:
    answer = await raw.call(JOIN, X_FRAMED * 3 + frame(b"") + frame(text("end")))
    assert answer.body == frame(text("x,x,x,,end"))


async def test_one_message_of_a_compressed_request_may_be_plain(raw: RawClient) -> None:
    answer = await raw.call(JOIN, X_FRAMED + frame(gzip.compress(X), flag=1), GZIPPED)
    assert answer.body == frame(text("x,x"))


async def test_a_side_that_is_left_open_does_not_hold_up_a_unary_answer(raw: RawClient) -> None:
    stream = raw.open(ECHO)
    raw.send(stream, X_FRAMED)
    answer = await raw.answer(stream)
    assert (answer.grpc_status, answer.body) == (0, X_FRAMED)


async def test_a_deadline_of_nothing_is_over_at_once(raw: RawClient) -> None:
    answer = await raw.call(f"{SERVICE}/Wait", X_FRAMED, [("grpc-timeout", "0n")])
    assert answer.grpc_status == StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_deadline_of_eleven_thousand_years_is_no_trouble(raw: RawClient) -> None:
    answer = await raw.call(ECHO, X_FRAMED, [("grpc-timeout", "99999999H")])
    assert (answer.grpc_status, answer.body) == (0, X_FRAMED)


async def test_bytes_that_are_no_http2_end_only_their_own_connection(served: Served) -> None:
    async with RawClient.to(served.address) as raw:
        await raw.send_bytes(b"\x00" * 1000 + b"\xff" * 1000)
        await raw.until_closed()
