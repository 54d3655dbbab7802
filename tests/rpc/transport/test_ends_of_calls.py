"""How a call ends: errors, deadlines, and callers who go away."""

import asyncio
from base64 import b64decode
from collections.abc import Awaitable

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio

from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.transport.conftest import Served
from tests.rpc.transport.probe import SERVICE, ProbeStub
from tests.rpc.transport.raw import RawClient, frame, text
from tests.waiting import until

ERRORS = [code for code in StatusCode if code is not StatusCode.OK]


async def error_of(call: Awaitable[object]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("code", ERRORS, ids=lambda code: code.name)
async def test_every_code_reaches_the_caller(stub: ProbeStub, code: StatusCode) -> None:
    error = await error_of(stub.Fail(StringValue(value=f"{code.name}:why")))
    assert (error.code(), error.details()) == (code, "why")


@pytest.mark.parametrize("message", ["", "100 % of it", "ünïcödé 火 🔥", "two\nlines\tand \x00\x7f", "%41", "x" * 1000])
async def test_messages_arrive_as_they_were_written(stub: ProbeStub, message: str) -> None:
    error = await error_of(stub.Fail(StringValue(value=f"ABORTED:{message}")))
    assert error.details() == message


async def test_an_error_carries_metadata(stub: ProbeStub) -> None:
    error = await error_of(stub.Fail(StringValue(value="ABORTED:why")))
    assert [(key, value) for key, value in error.trailing_metadata() if key.startswith("x-")] == [
        ("x-detail-bin", b"\x00\xff"),
        ("x-detail", "text"),
    ]


async def test_an_error_may_be_given_as_one_status(stub: ProbeStub) -> None:
    error = await error_of(stub.FailWithStatus(StringValue(value="gone")))
    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "gone")
    assert ("x-detail", "text") in tuple(error.trailing_metadata())


async def test_a_code_that_was_set_ends_the_call_without_a_response(stub: ProbeStub) -> None:
    error = await error_of(stub.SetCode(StringValue(value="not now")))
    assert (error.code(), error.details()) == (StatusCode.FAILED_PRECONDITION, "not now")


async def test_an_exception_of_a_servicer_is_unknown(stub: ProbeStub) -> None:
    assert (await error_of(stub.Crash(StringValue()))).code() is StatusCode.UNKNOWN
    assert (await stub.Echo(StringValue(value="still here"))).value == "still here"


async def test_a_stream_may_fail_after_its_first_message(stub: ProbeStub) -> None:
    call = stub.FailMidway(StringValue())
    assert (await call.read()).value == "first"
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (StatusCode.ABORTED, "midway")


@pytest.mark.parametrize("method", ["/probe.Probe/Nothing", "/probe.Nobody/Echo", "/"])
async def test_what_is_not_served_is_unimplemented(channel: aio.Channel, method: str) -> None:
    call = channel.unary_unary(method, StringValue.SerializeToString, StringValue.FromString)
    error = await error_of(call(StringValue()))
    assert (error.code(), error.details()) == (StatusCode.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("method", ["Echo", "Count", "Write", "Join", "Chat"])
async def test_a_request_that_is_no_message_of_the_method_is_the_callers_fault(
    method: str, raw: RawClient, stub: ProbeStub, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether one message is taken or many, one given or many; a log is not to be filled by what strangers send."""
    answer = await raw.call(f"{SERVICE}/{method}", frame(b"\xff\xff\xff"))
    assert answer.grpc_status == StatusCode.INVALID_ARGUMENT.value[0]
    info, bad = ErrorInfo(), BadRequest()
    details = (answer.trailers or answer.headers)["grpc-status-details-bin"]
    told = Status.FromString(b64decode(details + "=" * (-len(details) % 4))).details
    assert told[0].Unpack(info)
    assert told[1].Unpack(bad)
    assert info.reason == "ERROR_REASON_INVALID_REQUEST"
    assert [violation.field for violation in bad.field_violations] == ["request"]
    assert (await stub.Echo(StringValue(value="still here"))).value == "still here"
    assert caplog.text == ""


async def test_a_request_that_is_too_large_is_refused(stub: ProbeStub) -> None:
    error = await error_of(stub.Echo(StringValue(value="x" * MAX_REQUEST_BYTES)))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    sizes = f"({MAX_REQUEST_BYTES + 5} vs. {MAX_REQUEST_BYTES})"
    assert error.details() == f"SERVER: Received message larger than max {sizes}"


async def test_one_that_is_too_large_ends_a_stream(stub: ProbeStub) -> None:
    call = stub.Chat()
    await call.write(StringValue(value="fits"))
    assert (await call.read()).value == "fits"
    await call.write(StringValue(value="x" * MAX_REQUEST_BYTES))
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


# Deadlines


async def test_a_servicer_learns_how_long_it_has(stub: ProbeStub) -> None:
    answer = await stub.Remaining(StringValue(), timeout=20)
    assert float(answer.value) == pytest.approx(20, abs=5)


async def test_without_a_deadline_there_is_all_the_time(stub: ProbeStub) -> None:
    assert (await stub.Remaining(StringValue())).value == "None"


@pytest.mark.parametrize("method", ["Wait", "WaitMidway"])
async def test_the_deadline_cancels_the_work(served: Served, raw: RawClient, method: str) -> None:
    """Even where the caller only waits: the server ends the call by itself."""
    answer = await raw.call(f"{SERVICE}/{method}", frame(text("x")), [("grpc-timeout", "500m")])
    if served.name == "asgi" or answer.reset is None:
        assert answer.grpc_status == StatusCode.DEADLINE_EXCEEDED.value[0]
    await until(lambda: served.probe.cancelled == 1)
    assert served.probe.waiting == 0


async def test_a_caller_sees_its_deadline_pass(served: Served, stub: ProbeStub) -> None:
    assert (await error_of(stub.Wait(StringValue(), timeout=0.5))).code() is StatusCode.DEADLINE_EXCEEDED
    await until(lambda: served.probe.cancelled == 1)


async def test_a_deadline_that_is_met_does_no_harm(served: Served, stub: ProbeStub) -> None:
    call = stub.Wait(StringValue(value="in time"), timeout=30)
    await until(lambda: served.probe.waiting == 1)
    served.probe.release.set()
    assert (await call).value == "in time"
    assert served.probe.cancelled == 0


# Callers who go away


async def test_a_cancelled_call_is_cancelled_at_the_servicer(served: Served, stub: ProbeStub) -> None:
    call = stub.Wait(StringValue())
    await until(lambda: served.probe.waiting == 1)
    call.cancel()
    await until(lambda: served.probe.cancelled == 1)
    await until(lambda: served.probe.ended == 1)


async def test_a_cancelled_stream_is_cancelled_at_the_servicer(served: Served, stub: ProbeStub) -> None:
    call = stub.WaitMidway(StringValue())
    assert (await call.read()).value == "first"
    await until(lambda: served.probe.waiting == 1)
    call.cancel()
    await until(lambda: served.probe.cancelled == 1)


async def test_a_lost_connection_cancels_all_its_calls(served: Served, stub: ProbeStub) -> None:
    async with RawClient.to(served.address) as raw:
        for _ in range(20):
            raw.send(raw.open(f"{SERVICE}/Wait"), frame(text("x")), end=True)
        await raw.flush()
        await until(lambda: served.probe.waiting == 20)
    await until(lambda: served.probe.cancelled == 20)
    assert (await stub.Echo(StringValue(value="still here"))).value == "still here"


async def test_a_servicer_may_have_itself_told_of_the_end(served: Served, stub: ProbeStub) -> None:
    served.probe.release.set()
    await stub.Wait(StringValue())
    await until(lambda: served.probe.ended == 1)


async def test_a_cancelled_call_leaves_its_neighbours_alone(served: Served, stub: ProbeStub) -> None:
    calls = [stub.Wait(StringValue(value=str(number))) for number in range(40)]
    await until(lambda: served.probe.waiting == 40)
    for call in calls[::2]:
        call.cancel()
    await until(lambda: served.probe.cancelled == 20)
    served.probe.release.set()
    answers = await asyncio.gather(*calls[1::2])
    assert [answer.value for answer in answers] == [str(number) for number in range(1, 40, 2)]
