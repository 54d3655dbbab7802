"""Messages and metadata, both ways, in each of the four kinds of calls."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as Request
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionResponse as Response

from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.healths import health_turns, health_watch
from tests.rpc.transport.conftest import Served
from tests.rpc.transport.probe import SERVICE, ProbeStub

FRAME_OF_STRING_BYTES = 5
"""What a StringValue of a few megabytes adds to its text."""


async def said(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


@pytest.mark.parametrize("value", ["", "x", "x" * 20_000, "ü" * 400_000])
async def test_a_unary_call_carries_messages_of_any_length(stub: ProbeStub, value: str) -> None:
    assert (await stub.Echo(StringValue(value=value))).value == value


@pytest.mark.parametrize("method", ["Count", "Write"])
@pytest.mark.parametrize("count", [0, 1, 500])
async def test_a_server_stream_arrives_whole_and_in_order(stub: ProbeStub, method: str, count: int) -> None:
    responses = [response.value async for response in getattr(stub, method)(StringValue(value=str(count)))]
    assert responses == [str(number) for number in range(count)]


@pytest.mark.parametrize("method", ["Join", "Read"])
@pytest.mark.parametrize("count", [0, 1, 500])
async def test_a_client_stream_arrives_whole_and_in_order(stub: ProbeStub, method: str, count: int) -> None:
    values = [str(number) for number in range(count)]
    assert (await getattr(stub, method)(said(*values))).value == ",".join(values)


async def test_a_servicer_may_answer_before_the_client_stream_ends(stub: ProbeStub) -> None:
    call = stub.First()
    await call.write(StringValue(value="first"))
    assert (await call).value == "first"


async def test_both_sides_of_a_stream_talk_in_turns(stub: ProbeStub) -> None:
    call = stub.Chat()
    for value in ("one", "two", "x" * 300_000):
        await call.write(StringValue(value=value))
        assert (await call.read()).value == value
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_many_calls_at_once_on_one_connection_keep_apart(stub: ProbeStub) -> None:
    calls = {str(number): stub.Echo(StringValue(value=str(number))) for number in range(600)}
    assert [(await call).value for call in calls.values()] == list(calls)


async def test_metadata_arrives_as_it_was_sent(served: Served, stub: ProbeStub) -> None:
    sent = (("x-one", "1"), ("x-two", "a, b"), ("x-two", "c"), ("x-bytes-bin", bytes(range(256))), ("x-empty-bin", b""))
    await stub.Metadata(StringValue(), metadata=sent)
    assert [(key, value) for key, value in served.probe.metadata if key.startswith("x-")] == list(sent)


async def test_the_transports_own_headers_are_no_metadata(served: Served, stub: ProbeStub) -> None:
    await stub.Metadata(StringValue(), timeout=5)
    assert [key for key, _ in served.probe.metadata] == ["user-agent"]


async def test_initial_and_trailing_metadata_come_back(stub: ProbeStub) -> None:
    sent = (("x-initial", "i"), ("x-initial-bin", b"\x00\xfe"), ("x-trailing", "t"), ("x-trailing-bin", b"\xff\x01"))
    call = stub.Metadata(StringValue(), metadata=sent)
    await call
    assert [(key, value) for key, value in await call.initial_metadata() if key.startswith("x-")] == list(sent[:2])
    assert [(key, value) for key, value in await call.trailing_metadata() if key.startswith("x-")] == list(sent[2:])


async def test_a_servicer_learns_the_callers_address(served: Served, stub: ProbeStub) -> None:
    await stub.Metadata(StringValue())
    assert served.probe.peer.startswith("ipv4:127.0.0.1:")


async def test_the_largest_request_is_taken(stub: ProbeStub) -> None:
    value = "x" * (MAX_REQUEST_BYTES - FRAME_OF_STRING_BYTES)
    request = StringValue(value=value)
    assert request.ByteSize() == MAX_REQUEST_BYTES
    assert (await stub.Echo(request)).value == value


@pytest.mark.parametrize("value", ["x", "x" * 100_000])
async def test_a_client_that_compresses_is_understood_and_understands(served: Served, value: str) -> None:
    async with aio.insecure_channel(served.address, compression=grpc.Compression.Gzip) as channel:
        stub = ProbeStub(channel)
        assert (await stub.Echo(StringValue(value=value))).value == value
        assert [answer.value async for answer in stub.Chat(said(value, "two", value))] == [value, "two", value]


async def test_health_is_served_and_watched(served: Served, channel: aio.Channel) -> None:
    serving = health_pb2.HealthCheckResponse
    await served.health.set("part", serving.NOT_SERVING)
    watch = health_watch(channel, "part")
    assert status_of(await watch.read()) == serving.NOT_SERVING
    await served.health.set("part", serving.SERVING)
    assert status_of(await watch.read()) == serving.SERVING
    watch.cancel()
    await health_turns(channel, serving.SERVING, "part")


def status_of(answer: object) -> int:
    assert isinstance(answer, health_pb2.HealthCheckResponse)
    return answer.status


async def test_reflection_describes_the_services(channel: aio.Channel) -> None:
    info: aio.StreamStreamMultiCallable[Request, Response] = channel.stream_stream(
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo", Request.SerializeToString, Response.FromString
    )
    call = info()

    async def ask(request: Request) -> Response:
        await call.write(request)
        response = await call.read()
        assert isinstance(response, Response)
        return response

    listed = await ask(Request(list_services=""))
    assert [service.name for service in listed.list_services_response.service] == [health.SERVICE_NAME, SERVICE]
    found = await ask(Request(file_containing_symbol=health.SERVICE_NAME))
    file = FileDescriptorProto.FromString(found.file_descriptor_response.file_descriptor_proto[0])
    assert file.package == "grpc.health.v1"
    await call.done_writing()
    assert await call.read() is aio.EOF
