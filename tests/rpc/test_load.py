"""How much new work is taken follows how long calls stand in line; what there is no room for is told apart."""

import asyncio
from typing import Final

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.metrics.catalogue import TURNED_AWAY
from server.metrics.metrics import Metrics
from server.rpc import load as load_module
from server.rpc.load import BEATS, FEWEST, MOST, TARGET_S, Load
from server.settings import Transport
from tests.metrics.scraping import scraped
from tests.rpc.conftest import MakeSettings
from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns
from tests.rpc.transport.conftest import TRANSPORTS, serving
from tests.rpc.transport.probe import SERVICE, ProbeStub
from tests.rpc.transport.raw import RawClient
from tests.waiting import until

PER_S: Final = 20_000
LOOK_S: Final = 0.1


def looks(load: Load, active: int, per_s: int = PER_S, times: int = 1) -> None:
    """So many calls in work all the time, of which so many end in a second."""
    for _ in range(times):
        load.look([active] * BEATS, int(per_s * LOOK_S), LOOK_S)


def test_as_many_as_a_busy_process_has_in_work_are_always_let_in() -> None:
    load = Load()
    looks(load, 5)
    looks(load, FEWEST, per_s=100, times=10)
    assert load.limit == MOST


def test_a_line_that_stands_lets_in_what_ends_in_the_time_that_a_call_may_take() -> None:
    load = Load()
    looks(load, 20)  # a call takes 1 ms
    looks(load, 1000)  # and now 50 ms
    assert load.limit == MOST
    looks(load, 1000)
    assert load.limit == pytest.approx(PER_S * (TARGET_S + 0.001), abs=2)
    looks(load, 1000, per_s=500)
    assert load.limit == FEWEST


def test_a_line_that_was_cut_is_kept_short_though_it_does_not_stand_all_the_time() -> None:
    load = Load()
    looks(load, 5)
    uneven = [2 * FEWEST, 3 * FEWEST] * (BEATS // 2 - 1) + [FEWEST, 1]
    load.look(uneven, 500, LOOK_S)
    assert load.limit == MOST
    looks(load, 1000, per_s=5000, times=2)
    cut = load.limit
    load.look(uneven, 500, LOOK_S)
    assert load.limit == cut


def test_once_the_line_is_gone_more_are_let_in_again() -> None:
    load = Load()
    looks(load, 5)
    looks(load, 1000, times=2)
    looks(load, 20, times=30)
    assert load.limit == MOST


def test_a_burst_that_has_passed_turns_nobody_away() -> None:
    load = Load()
    looks(load, 5)
    load.look([1000] * (BEATS - 1) + [10], int(PER_S * LOOK_S), LOOK_S)
    assert load.limit == MOST


def test_what_many_ask_at_once_is_worked_off() -> None:
    """However long it takes: nobody comes to make it more."""
    load = Load()
    looks(load, 5)
    for left in range(1000, 100, -50):
        load.look([left - number for number in range(BEATS)], 50, LOOK_S)
    assert load.limit == MOST


def test_a_store_that_is_far_away_makes_no_line() -> None:
    """Hundreds of calls are on their way, and each takes as long as it always does."""
    load = Load()
    looks(load, 500, times=1000)
    assert load.limit == MOST


def test_without_ends_of_calls_nothing_is_known() -> None:
    """A store that is frozen is the breaker's to notice."""
    load = Load()
    looks(load, 5)
    looks(load, 1000, per_s=0, times=10)
    assert load.limit == MOST


async def test_the_limit_follows_what_is_seen_while_the_block_runs() -> None:
    load = Load()
    looks(load, 5)
    async with load:
        load.active = 100_000
        await until(lambda: count_end(load) and load.limit < MOST, what="a line to be seen")


def count_end(load: Load) -> bool:
    load.done += 10
    return True


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_waves_at_the_cap_reach_it_and_do_not_pass_it(name: str) -> None:
    metrics = Metrics()
    load = Load(metrics)
    load.limit = 8
    async with serving(name, load=load) as served, aio.insecure_channel(served.address) as channel:
        stub = ProbeStub(channel)
        for _ in range(5):
            served.probe.release.clear()
            calls = [asyncio.ensure_future(stub.Wait(StringValue())) for _ in range(24)]
            await until(lambda: sum(call.done() for call in calls) == 16)  # noqa: B023  # waited for at once
            assert load.active == served.probe.waiting == 8
            served.probe.release.set()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            failed = [end for end in ends if isinstance(end, aio.AioRpcError)]
            assert [error.code() for error in failed] == [StatusCode.UNAVAILABLE] * 16
            await until(lambda: load.active == 0)
        counted = {series.metric: series for series in metrics.book.series()}
        assert (counted[TURNED_AWAY].labels, counted[TURNED_AWAY].numbers) == ((f"{SERVICE}/Wait",), (5 * 16,))


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_call_is_turned_away_before_its_request_is_read(name: str) -> None:
    load = Load()
    load.limit = 0
    async with serving(name, load=load) as served, RawClient.to(served.address) as raw:
        answer = await raw.answer(raw.open(f"{SERVICE}/Wait"))
        assert answer.grpc_status == StatusCode.UNAVAILABLE.value[0]


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_call_whose_request_does_not_come_is_in_work_and_leaves_nothing_behind(name: str) -> None:
    load = Load()
    async with serving(name, load=load) as served:
        async with RawClient.to(served.address) as raw:
            stream = raw.open(f"{SERVICE}/Wait")
            await raw.flush()
            await until(lambda: load.active == 1, what="the call to be in work")
            raw.reset(stream)
            await raw.flush()
            await until(lambda: load.active == 0, what="the call to be gone")
        assert load.done == 1


@pytest.mark.parametrize("transport", [Transport.ASGI, Transport.GRPCIO])
async def test_a_busy_server_turns_new_work_away_and_ends_what_it_has(
    transport: Transport, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes it for a refusal, and what makes room is always let in."""
    monkeypatch.setattr(load_module, "MOST", 0)
    async with running(make_settings(transport=transport)) as app, aio.insecure_channel(app.address) as channel:
        stub = QuotaServiceStub(channel)
        await health_turns(channel, HealthCheckResponse.SERVING)
        error = await error_of(stub)
        assert error.code() is StatusCode.UNAVAILABLE
        info, retry = details(error)
        assert (info.reason, info.domain) == ("ERROR_REASON_OVERLOADED", "quota.v1")
        assert retry.retry_delay.ToMilliseconds() > 0
        fault = await fault_of(stub.Settle(quota.SettleRequest(tenant="acme", hold_id="h")))
        assert fault.reason == "HOLD_NOT_FOUND"
        await health_turns(channel, HealthCheckResponse.SERVING)


@pytest.mark.parametrize("transport", [Transport.ASGI, Transport.GRPCIO])
async def test_what_is_turned_away_is_counted_as_a_call_that_got_no_decision(
    transport: Transport, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "MOST", 0)
    settings = make_settings(transport=transport, metrics_address="127.0.0.1:0")
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        for _ in range(3):
            await error_of(QuotaServiceStub(channel))
        found = scraped(app.metrics_address)
        assert found["holdgate_turned_away_total"] == {("quota.v1.QuotaService/Estimate",): 3}
        assert found["holdgate_calls_total"]["quota.v1.QuotaService/Estimate", "UNAVAILABLE"] == 3


async def error_of(stub: QuotaServiceStub) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Estimate(quota.EstimateRequest(tenant="acme", action="poll"))
    return caught.value


def details(error: aio.AioRpcError) -> tuple[ErrorInfo, RetryInfo]:
    metadata = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
    status = Status.FromString(metadata["grpc-status-details-bin"])
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    return info, retry
