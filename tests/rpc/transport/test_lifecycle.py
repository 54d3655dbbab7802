"""Starting and stopping: ports, calls in work, and those who come too late."""

import asyncio
import time

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode, aio

from server.rpc.transports.base import ListenError
from tests.rpc.transport.conftest import TRANSPORTS, Served, serving
from tests.rpc.transport.probe import ProbeStub
from tests.waiting import until

CUT_OFF = {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}


async def test_a_free_port_is_taken_and_told(served: Served) -> None:
    host, _, port = served.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


async def test_a_port_in_use_is_an_error_that_names_it(served: Served) -> None:
    with pytest.raises(ListenError, match=served.address):
        async with serving(served.name, served.address):
            pass


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_two_servers_may_agree_to_share_a_port(name: str) -> None:
    async with serving(name, reuse_port=True) as one, serving(name, one.address, reuse_port=True) as two:
        assert one.address == two.address
        peers = set()
        for number in range(60):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with aio.insecure_channel(one.address, options) as channel:
                await ProbeStub(channel).Metadata(StringValue(value=str(number)))
            peers = {one.probe.peer, two.probe.peer}
            if "" not in peers:
                break
        assert "" not in peers


async def test_a_stop_lets_calls_in_work_finish(served: Served, stub: ProbeStub) -> None:
    unary = stub.Wait(StringValue(value="finished"))
    stream = stub.WaitMidway(StringValue())
    assert (await stream.read()).value == "first"
    await until(lambda: served.probe.waiting == 2)
    stopping = asyncio.create_task(served.transport.stop(30))
    async with aio.insecure_channel(served.address) as late:
        with pytest.raises(aio.AioRpcError):
            await ProbeStub(late).Echo(StringValue(), timeout=0.2)
    assert not stopping.done()
    served.probe.release.set()
    assert (await unary).value == "finished"
    assert await stream.read() is aio.EOF
    await asyncio.wait_for(stopping, 10)


async def test_calls_that_outlast_the_grace_are_cut_off(served: Served, stub: ProbeStub) -> None:
    unary = stub.Wait(StringValue())
    stream = stub.WaitMidway(StringValue())
    assert (await stream.read()).value == "first"
    await until(lambda: served.probe.waiting == 2)
    await asyncio.wait_for(served.transport.stop(0.05), 10)
    for ended in (unary, stream.read()):
        with pytest.raises(aio.AioRpcError) as caught:
            await ended
        assert caught.value.code() in CUT_OFF
    assert served.probe.waiting == 0


async def test_a_stop_without_calls_does_not_wait_for_the_grace(served: Served, stub: ProbeStub) -> None:
    await stub.Echo(StringValue())
    started_s = time.monotonic()
    await served.transport.stop(30)
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_the_port_is_free_again_after_a_stop(name: str) -> None:
    async with serving(name) as first:
        pass
    async with serving(name, first.address) as second, aio.insecure_channel(second.address) as channel:
        assert (await ProbeStub(channel).Echo(StringValue(value="x"), wait_for_ready=True)).value == "x"
