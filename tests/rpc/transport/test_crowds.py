"""Many calls at once, and callers who take no care of the server: the others do not notice."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode, aio

from server.rpc.transports import grpcio
from server.rpc.transports.asgi import app
from tests.rpc.transport.conftest import TRANSPORTS, Served, serving
from tests.rpc.transport.probe import FLOOD_MESSAGE_BYTES, SERVICE, ProbeStub
from tests.rpc.transport.raw import RawClient, frame, text
from tests.waiting import until

FLOOD_FRAMED_BYTES = FLOOD_MESSAGE_BYTES + 100
BETWEEN_THE_TWO_BYTES = 16 * 1024 * 1024
"""Far more than the windows and buffers of one connection, and far less than the flood."""


async def test_calls_opened_and_cancelled_by_the_thousand_leave_others_unharmed(
    served: Served, stub: ProbeStub
) -> None:
    async def reckless() -> None:
        async with aio.insecure_channel(served.address) as channel:
            wait = ProbeStub(channel).Wait
            for turn in range(10):
                calls = [wait(StringValue()) for _ in range(100)]
                if turn % 2:
                    await until(lambda: served.probe.waiting > 0)
                for call in calls:
                    call.cancel()
                await asyncio.wait([asyncio.ensure_future(_ended(call)) for call in calls])

    async def careful() -> None:
        for number in range(300):
            assert (await stub.Echo(StringValue(value=str(number)), timeout=10)).value == str(number)

    await asyncio.gather(reckless(), reckless(), reckless(), careful())
    await until(lambda: served.probe.waiting == 0)


async def _ended(call: aio.UnaryUnaryCall[StringValue, StringValue]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("with_body", [True, False])
async def test_streams_reset_as_fast_as_they_are_opened_leave_others_unharmed(
    served: Served, stub: ProbeStub, *, with_body: bool
) -> None:
    async with RawClient.to(served.address) as raw:
        for _ in range(20):
            for _ in range(100):
                stream = raw.open(f"{SERVICE}/Wait")
                if with_body:
                    raw.send(stream, frame(text("x")), end=True)
                raw.reset(stream)
            if not await raw.try_flush():
                break  # the server may well have had enough of this connection
            assert (await stub.Echo(StringValue(value="x"), timeout=10)).value == "x"
    await until(lambda: served.probe.waiting == 0)
    assert (await stub.Echo(StringValue(value="x"), timeout=10)).value == "x"


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_calls_beyond_what_is_taken_at_once_are_turned_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpcio, "MAX_CONCURRENT_CALLS", 4)
    monkeypatch.setattr(app, "MAX_CONCURRENT_CALLS", 4)
    async with serving(name) as served, aio.insecure_channel(served.address) as channel:
        stub = ProbeStub(channel)
        calls = [stub.Wait(StringValue()) for _ in range(4)]
        await until(lambda: served.probe.waiting == 4)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.Echo(StringValue())
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "Concurrent RPC limit exceeded!"
        served.probe.release.set()
        await asyncio.gather(*calls)
        await stub.Echo(StringValue())


async def test_a_stream_that_nobody_reads_is_held_back(served: Served, stub: ProbeStub) -> None:
    """The servicer waits in its write, so that what is not read does not pile up in the server."""
    async with RawClient.to(served.address) as raw:
        raw.send(raw.open(f"{SERVICE}/Flood"), frame(text("")), end=True)
        await raw.flush()
        await until(lambda: served.probe.flooded > 0)
        before = -1
        while served.probe.flooded != before:
            before = served.probe.flooded
            for _ in range(50):
                await stub.Echo(StringValue())
    await until(lambda: not served.probe.flooding)
    assert before * FLOOD_MESSAGE_BYTES < BETWEEN_THE_TWO_BYTES


async def test_a_stream_that_is_read_arrives_whole(stub: ProbeStub) -> None:
    sizes = [len(response.value) async for response in stub.Flood(StringValue())]
    assert sizes == [FLOOD_MESSAGE_BYTES] * 1024
