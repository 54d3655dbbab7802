"""What a server shows of itself, and that nobody who calls it can make it show more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1.admin_service_pb2 import Account, PutAccountRequest
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import (
    MODE_CHECK_ONLY,
    BatchRequest,
    CheckAndReserveRequest,
    Operation,
    ReleaseRequest,
    SettleRequest,
    StreamRequest,
)
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import POLICY as POLICY_HEALTH
from server.bootstrap import App, StartError, running
from server.gate import QuotaGate
from server.jobs import vitals
from server.jobs.policy_reload import reload_policies
from tests.metrics.scraping import scraped
from tests.rpc.conftest import NOON_MS, POLICY, MakeSettings, set_time
from tests.rpc.healths import health_turns
from tests.waiting import until

RESERVE: Final = "quota.v1.QuotaService/CheckAndReserve"


@pytest.fixture(autouse=True)
def _frequent_censuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "CENSUS_INTERVAL_S", 0.1)


@pytest.fixture
def store() -> str:
    """Where the state is, for tests that do not say it."""
    return "memory"


@pytest.fixture(params=["asgi", "grpcio"])
async def app(request: pytest.FixtureRequest, make_settings: MakeSettings, store: str) -> AsyncIterator[App]:
    settings = make_settings(metrics_address="127.0.0.1:0", transport=request.param, store=store)
    async with running(settings) as app:
        async with aio.insecure_channel(app.address) as channel:
            await set_time(channel, NOON_MS)
        yield app


def work(tenant: str, request_id: str, **more: Any) -> CheckAndReserveRequest:  # noqa: ANN401  # any field
    fields = {"action": "work", "scope": {"project": "p1"}, "amounts": {"credits": 40}, **more}
    return CheckAndReserveRequest(tenant=tenant, request_id=request_id, **fields)


async def test_decisions_are_counted_by_outcome_code_and_limit(app: App, quota: QuotaServiceStub, tenant: str) -> None:
    for request in (
        work(tenant, "r-1"),
        work(tenant, "r-1"),
        work(tenant, "r-2"),
        work(tenant, "r-3"),  # both places are taken, and the credits are not enough
        work(tenant, "", mode=MODE_CHECK_ONLY),
        work(tenant, "", action="poll", amounts={}, mode=MODE_CHECK_ONLY),
    ):
        await quota.CheckAndReserve(request)
    found = scraped(app.metrics_address)
    assert found["holdgate_decisions_total"] == {
        ("lab", "granted", ""): 2,
        ("lab", "replayed", ""): 1,
        ("lab", "refused", "insufficient_credits"): 1,
        ("lab", "would_refuse", "insufficient_credits"): 1,
        ("lab", "would_grant", ""): 1,
    }
    assert found["holdgate_refusals_total"] == {("lab", "jobs"): 2, ("lab", "credits"): 2}


async def test_calls_are_counted_by_method_and_status(app: App, quota: QuotaServiceStub, tenant: str) -> None:
    await quota.CheckAndReserve(work(tenant, "r-1"))
    with pytest.raises(aio.AioRpcError):
        await quota.Settle(SettleRequest(tenant=tenant, hold_id="nobody's"))
    with pytest.raises(aio.AioRpcError):
        await quota.CheckAndReserve(work(tenant, "r-2", action="sing"))
    with pytest.raises(aio.AioRpcError):
        await quota.CheckAndReserve(work(tenant, "r-3", amounts={"credits": 1000}, deny_as_status=True))
    stream = quota.Stream(iter([StreamRequest(operation=Operation(check_and_reserve=work(tenant, "r-4")))]))
    assert [response.result.HasField("error") async for response in stream] == [False]
    calls = scraped(app.metrics_address)["holdgate_calls_total"]
    assert calls[RESERVE, "OK"] == 1
    assert calls[RESERVE, "INVALID_ARGUMENT"] == 1
    assert calls[RESERVE, "RESOURCE_EXHAUSTED"] == 1
    assert calls["quota.v1.QuotaService/Settle", "NOT_FOUND"] == 1
    assert calls["quota.v1.QuotaService/Stream", "OK"] == 1
    assert scraped(app.metrics_address)["holdgate_call_seconds_count"][RESERVE,] == 3


async def test_a_call_that_its_caller_gave_up_is_counted(
    app: App, channel: aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def stuck(*_arguments: object, **_more: object) -> None:
        reached.set()
        await never.wait()

    monkeypatch.setattr(QuotaGate, "check_and_reserve", stuck)
    call = QuotaServiceStub(channel).CheckAndReserve(work("acme", "r-1"))
    await reached.wait()
    await until(lambda: scraped(app.metrics_address)["holdgate_calls_in_flight"] == {(): 1}, what="it to be shown")
    call.cancel()
    await until(
        lambda: scraped(app.metrics_address)["holdgate_calls_total"].get((RESERVE, "CANCELLED")) == 1,
        what="the call to be counted",
    )
    await until(lambda: scraped(app.metrics_address)["holdgate_calls_in_flight"] == {(): 0}, what="it to be over")


@pytest.mark.parametrize("store", ["embedded"])
async def test_settle_lag_published(app: App, channel: aio.Channel, quota: QuotaServiceStub, tenant: str) -> None:
    """A settle that comes late is seen to come late, in the store's own time."""
    await quota.CheckAndReserve(work(tenant, "r-1"))
    await set_time(channel, NOON_MS + 7000)
    for _ in range(2):
        await quota.Settle(SettleRequest(tenant=tenant, hold_id="r-1"))
    found = scraped(app.metrics_address)
    assert (found["holdgate_settle_lag_seconds_count"], found["holdgate_settle_lag_seconds_sum"]) == ({(): 1}, {(): 7})


@pytest.mark.parametrize("store", ["memory", "embedded"])
async def test_what_becomes_of_holds_is_counted_alike_whatever_the_store(
    app: App, channel: aio.Channel, quota: QuotaServiceStub, tenant: str
) -> None:
    async def grant(*hold_ids: str) -> None:
        for hold_id in hold_ids:
            await quota.CheckAndReserve(work(tenant, hold_id, amounts={"credits": 1}))

    async def settle(hold_id: str) -> None:
        await quota.Settle(SettleRequest(tenant=tenant, hold_id=hold_id))

    await grant("settled", "released")
    await quota.CheckAndReserve(work(tenant, "leaves-none", action="poll", amounts={}))
    await set_time(channel, NOON_MS + 7000)
    for _ in range(2):
        await settle("settled")
        await quota.Release(ReleaseRequest(tenant=tenant, hold_id="released"))
    await grant("late", "expired")
    await set_time(channel, NOON_MS + 7000 + 121_000)
    await settle("late")
    await grant("open")
    await until(lambda: scraped(app.metrics_address).get("holdgate_holds_active") == {("lab",): 1}, what="a census")
    found = scraped(app.metrics_address)
    assert found["holdgate_holds_opened_total"] == {(): 5}
    assert found["holdgate_holds_ended_total"] == {("settled",): 1, ("settled_late",): 1, ("released",): 1}
    assert found["holdgate_holds_expired_total"] == {("call",): 2}
    assert found["holdgate_settle_lag_seconds_count"] == {(): 2}
    assert found["holdgate_settle_lag_seconds_sum"] == {(): 7 + 121}


async def test_holds_that_the_sweeper_finds_are_counted_as_its_own(make_settings: MakeSettings) -> None:
    settings = make_settings(metrics_address="127.0.0.1:0", sweep_interval_ms=20)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await set_time(channel, NOON_MS)
        await AdminServiceStub(channel).PutAccount(PutAccountRequest(tenant="acme", account=Account(plan="free")))
        await QuotaServiceStub(channel).CheckAndReserve(work("acme", "r-1"))
        await set_time(channel, NOON_MS + 121_000)
        await until(
            lambda: scraped(app.metrics_address).get("holdgate_holds_expired_total") == {("sweeper",): 1},
            what="the sweeper",
        )


async def test_many_tenants_make_no_more_series_than_one(app: App, quota: QuotaServiceStub) -> None:
    async def ask(start: int, count: int) -> int:
        for first in range(start, start + count, 250):
            each = [work(f"t-{n}", f"r-{n}", action="poll", amounts={}) for n in range(first, first + 250)]
            operations = [Operation(check_and_reserve=request) for request in each]
            results = (await quota.Batch(BatchRequest(operations=operations))).results
            assert not any(result.HasField("error") for result in results)
        found = scraped(app.metrics_address)
        assert found["holdgate_decisions_total"]["lab", "granted", ""] == start + count
        return sum(map(len, found.values()))

    assert await ask(0, 250) == await ask(250, 5000)


async def test_what_nobody_serves_makes_no_series(app: App, channel: aio.Channel) -> None:
    async def count() -> int:
        return sum(map(len, scraped(app.metrics_address).values()))

    before = await count()
    for name in ("a", "b", "c"):
        nothing: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/quota.v1.QuotaService/{name}")
        with pytest.raises(aio.AioRpcError) as caught:
            await nothing(b"")
        assert caught.value.code() is StatusCode.UNIMPLEMENTED
    assert await count() == before


async def test_the_policies_in_force_are_shown_and_that_newer_ones_are_bad(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.read_text())
    async with running(make_settings(metrics_address="127.0.0.1:0", policies=(path,))) as app:
        version = app.policies.get("lab").version
        await until(lambda: "holdgate_policy_info" in scraped(app.metrics_address), what="the policy to be shown")
        path.write_text("policy: [")
        reload_policies(app.policies)
        await until(lambda: scraped(app.metrics_address)["holdgate_policy_rejected"] == {(): 1}, what="the fault")
        async with aio.insecure_channel(app.address) as channel:
            await health_turns(channel, HealthCheckResponse.NOT_SERVING, POLICY_HEALTH)
            await health_turns(channel, HealthCheckResponse.SERVING)
        assert scraped(app.metrics_address)["holdgate_policy_info"] == {("lab", version): 1}
        path.write_text(POLICY.read_text() + "# another version\n")
        reload_policies(app.policies)
        newer = app.policies.get("lab").version
        await until(
            lambda: scraped(app.metrics_address)["holdgate_policy_info"] == {("lab", version): 0, ("lab", newer): 1},
            what="the newer policy",
        )
        assert scraped(app.metrics_address)["holdgate_policy_rejected"] == {(): 0}


async def test_an_address_that_is_taken_stops_the_start(app: App, make_settings: MakeSettings) -> None:
    with pytest.raises(StartError, match=f"cannot show metrics on {app.metrics_address}"):
        async with running(make_settings(metrics_address=app.metrics_address)):
            pass
