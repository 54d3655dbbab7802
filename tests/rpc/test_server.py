"""The server as a whole: health, reflection, bounds, the test clock, a taken port."""

from contextlib import AsyncExitStack

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from quota.v1 import test_clock_service_pb2 as clock
from quota.v1 import test_clock_service_pb2_grpc as clock_grpc
from quota.v1.quota_service_pb2 import CheckAndReserveRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import SWEEPER, App, StartError, running
from server.rpc import server as rpc_server
from server.rpc.admin_service import NAME as ADMIN_SERVICE
from server.rpc.quota_service import NAME as QUOTA_SERVICE
from server.rpc.test_clock_service import NAME as TEST_CLOCK_SERVICE
from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.conftest import MakeSettings
from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns, health_watch

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", ["", QUOTA_SERVICE, ADMIN_SERVICE, TEST_CLOCK_SERVICE, SWEEPER])
async def test_every_service_and_the_whole_server_report_health(channel: aio.Channel, name: str) -> None:
    await health_turns(channel, SERVING, name)


async def test_a_watcher_of_health_does_not_hold_up_the_end(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_server, "GRACE_S", 600.0)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(make_settings()))
        async with aio.insecure_channel(app.address) as channel:
            watch = health_watch(channel)
            await anext(aiter(watch))
            await stack.aclose()
            last = [answer.status async for answer in watch][-1]
            assert (last, await watch.code()) == (NOT_SERVING, StatusCode.OK)


async def test_reflection_lists_the_services_and_knows_their_messages(channel: aio.Channel) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    requests = [ask(list_services=""), ask(file_containing_symbol=QUOTA_SERVICE)]
    call = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    listed, described = [answer async for answer in call(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {QUOTA_SERVICE, ADMIN_SERVICE, TEST_CLOCK_SERVICE, "grpc.health.v1.Health"} <= names
    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert file.name == "quota/v1/quota_service.proto"


async def test_a_message_beyond_the_bound_is_refused_before_it_is_read(channel: aio.Channel) -> None:
    path = "/quota.v1.QuotaService/CheckAndReserve"
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    with pytest.raises(aio.AioRpcError) as caught:
        await call(b"x" * (MAX_REQUEST_BYTES + 1))
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_the_largest_error_arrives_whole(quota: QuotaServiceStub) -> None:
    scope = {f"{number}" + "語" * 2000: "x" for number in range(16)}
    fault = await fault_of(quota.CheckAndReserve(CheckAndReserveRequest(tenant="acme", action="work", scope=scope)))
    assert fault.status is StatusCode.INVALID_ARGUMENT
    assert fault.violations


@pytest.mark.parametrize("now_ms", [0, -1, 2**53])
async def test_the_test_clock_takes_only_times(channel: aio.Channel, now_ms: int) -> None:
    fault = await fault_of(clock_grpc.TestClockServiceStub(channel).SetTime(clock.SetTimeRequest(now_ms=now_ms)))
    assert list(fault.violations) == ["now_ms"]


async def test_without_its_flag_the_test_clock_is_not_served(make_settings: MakeSettings) -> None:
    async with running(make_settings(test_clock=False)) as app, aio.insecure_channel(app.address) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await clock_grpc.TestClockServiceStub(channel).SetTime(clock.SetTimeRequest(now_ms=1))
        assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_port_that_is_taken_stops_the_start(app: App, make_settings: MakeSettings) -> None:
    with pytest.raises(StartError, match=f"cannot listen on {app.address}"):
        async with running(make_settings(listen=app.address)):
            pass


async def test_an_address_of_another_machine_is_told_apart_from_a_port_that_is_taken(
    make_settings: MakeSettings,
) -> None:
    with pytest.raises(StartError, match=r"or is the address not this machine's\? \(.*Cannot assign requested address"):
        async with running(make_settings(listen="192.0.2.1:0", test_clock=False, transport="asgi")):
            pass


async def test_a_server_tells_its_address_store_and_policies(app: App) -> None:
    version = app.policies.get("lab").version
    assert app.describe() == (f"holdgate serves on {app.address}; store: memory, gone at exit; policies: lab {version}")


async def test_a_bad_policy_stops_the_start_with_file_and_line(make_settings: MakeSettings) -> None:
    settings = make_settings()
    path = settings.data_dir / "bad.yaml"
    path.write_text("policy: bad\nlimits: 7\n")
    with pytest.raises(StartError, match=r"bad\.yaml:2"):
        async with running(make_settings(policies=(path,))):
            pass
