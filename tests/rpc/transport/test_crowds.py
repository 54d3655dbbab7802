"""Many calls at once, and callers who take no care of the server: the others do not notice."""

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from server.rpc.transports import grpcio_methods
from server.rpc.transports.asgi import app
from tests.rpc.faults import DETAILS_KEY, Fault, read
from tests.rpc.transport.conftest import TRANSPORTS, Served, serving
from tests.rpc.transport.probe import FLOOD_MESSAGE_BYTES, SERVICE, ProbeStub
from tests.rpc.transport.raw import RawClient, frame, text
from tests.waiting import until

FLOOD_FRAMED_BYTES = FLOOD_MESSAGE_BYTES + 100
CAP = 8
ENDS = [StatusCode.OK] * CAP + [StatusCode.UNAVAILABLE] * CAP
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
async def test_rpc_cap_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves of calls of every kind at twice the cap: as many as the cap are in work, never more, and what is one too
    many is told that the server is busy, never what could be taken for a refusal; and it is alive to who asks.
    """
    monkeypatch.setattr(grpcio_methods, "MAX_CONCURRENT_CALLS", CAP)
    monkeypatch.setattr(app, "MAX_CONCURRENT_CALLS", CAP)
    async with serving(name) as served, aio.insecure_channel(served.address) as channel:
        stub = ProbeStub(channel)
        for _ in range(10):
            served.probe.release.clear()
            calls = [stub.Wait(StringValue()) for _ in range(2 * CAP)]
            await until(lambda: sum(call.done() for call in calls) == CAP)  # noqa: B023  # waited for at once
            assert served.probe.waiting == CAP
            alive = await HealthStub(channel).Check(HealthCheckRequest(), timeout=10)  # type: ignore[attr-defined]  # not in its stub
            assert alive.status == HealthCheckResponse.SERVING
            calls += [stub.Echo(StringValue()), stub.Count(StringValue(value="1")), stub.Join(), stub.Chat()]
            for call in calls:
                if call.done() or call in calls[2 * CAP :]:
                    fault = await fault_in(call)
                    assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "OVERLOADED")
                    assert fault.retry_after_ms
            served.probe.release.set()
            assert sorted([await call.code() for call in calls[: 2 * CAP]], key=str) == ENDS
            assert (await stub.Echo(StringValue(value="x"))).value == "x"


async def fault_in(call: Any) -> Fault:  # noqa: ANN401  # a call of any kind
    """How a call ended, wherever it was told."""
    metadata = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
    return read(await call.code(), Status.FromString(metadata[DETAILS_KEY]))


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
