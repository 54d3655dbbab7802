"""How a server lives with its store: absent, back again, emptied, adopted, embedded."""

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import decision_pb2
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import CheckAndReserveRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import StartError, adopt_store, running
from server.engine import embedded
from server.jobs import epoch_watch
from tests.rpc.conftest import MakeSettings
from tests.rpc.faults import DETAILS_KEY, fault_of
from tests.rpc.healths import health_turns
from tests.stores import RunningStore, free_port, running_store

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
WORK = CheckAndReserveRequest(
    tenant="acme", request_id="r-1", action="work", scope={"project": "p"}, amounts={"credits": 5}
)


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes", tcp=True) as store:
        yield store


async def open_account(channel: aio.Channel) -> None:
    account = admin.Account(plan="free")
    await AdminServiceStub(channel).PutAccount(admin.PutAccountRequest(tenant="acme", account=account))


async def test_a_server_starts_without_its_store_and_serves_once_it_is_there(
    make_settings: MakeSettings, store: RunningStore
) -> None:
    store.kill()
    settings = make_settings(store="redis", redis_url=store.url)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await health_turns(channel, NOT_SERVING)
        assert "not usable yet" in app.describe()
        fault = await fault_of(QuotaServiceStub(channel).CheckAndReserve(WORK))
        assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert fault.retry_after_ms is not None
        store.start()
        await health_turns(channel, SERVING)
        await open_account(channel)
        decision = (await QuotaServiceStub(channel).CheckAndReserve(WORK)).decision
        assert decision.outcome == decision_pb2.OUTCOME_GRANTED
        store.kill()
        await health_turns(channel, NOT_SERVING)


async def test_a_call_that_the_store_leaves_hanging_ends_before_its_callers_deadline(
    make_settings: MakeSettings, store: RunningStore
) -> None:
    settings = make_settings(store="redis", redis_url=store.url, store_timeout_ms=60_000)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        quota = QuotaServiceStub(channel)
        await open_account(channel)
        await quota.CheckAndReserve(WORK)
        store.freeze()
        poll = CheckAndReserveRequest(tenant="acme", action="poll")
        ends = [await end_of(quota.CheckAndReserve(poll, timeout=0.3)) for _ in range(3)]
        store.thaw()
    # A busy machine may hold up one answer for longer than the margin that is kept for it.
    assert any(DETAILS_KEY in dict(end.trailing_metadata() or ()) for end in ends), (
        "the client found each missed itself"
    )
    assert {end.code() for end in ends} <= {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}


async def end_of(call: Awaitable[object]) -> aio.AioRpcError:
    """The error that a call must end with, whoever found it."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_emptied_store_decides_nothing_about_money_until_it_is_adopted(
    make_settings: MakeSettings, store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_watch, "INTERVAL_S", 0.05)
    settings = make_settings(store="redis", redis_url=store.url)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        quota = QuotaServiceStub(channel)
        await open_account(channel)
        await health_turns(channel, SERVING)
        store.command("FLUSHALL")
        await health_turns(channel, NOT_SERVING)
        fault = await fault_of(quota.CheckAndReserve(WORK))
        assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_LOST")
        assert "holdgate store adopt" in fault.message
        said = await adopt_store(settings)
        assert store.url.removesuffix("/0") in said
        await health_turns(channel, SERVING)
        assert (await quota.CheckAndReserve(WORK)).decision.outcome == decision_pb2.OUTCOME_REFUSED


async def test_an_embedded_store_keeps_holds_and_balances_over_a_restart(make_settings: MakeSettings) -> None:
    settings = make_settings(store="embedded", test_clock=False)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        assert app.describe().partition("store: ")[2].startswith(f"embedded, in {settings.data_dir};")
        await open_account(channel)
        first = (await QuotaServiceStub(channel).CheckAndReserve(WORK)).decision
        assert first.outcome == decision_pb2.OUTCOME_GRANTED
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await health_turns(channel, SERVING)
        again = (await QuotaServiceStub(channel).CheckAndReserve(WORK)).decision
        assert (again.outcome, again.replayed) == (decision_pb2.OUTCOME_GRANTED, True)
        assert [limit.used for limit in again.limits] == [limit.used for limit in first.limits]


async def test_a_data_folder_in_use_stops_the_start(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "ORPHAN_S", 0.1)
    settings = make_settings(store="embedded")
    async with running(settings):
        with pytest.raises(StartError, match="in use"):
            async with running(settings):
                pass


async def test_a_data_folder_that_cannot_be_one_stops_the_start(make_settings: MakeSettings, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("in the way")
    with pytest.raises(StartError, match=r"the embedded store cannot start: .*file"):
        async with running(make_settings(store="embedded", data_dir=path)):
            pass


@pytest.mark.parametrize("url", ["http://localhost", "redis://localhost:notaport", "redis://localhost/many"])
async def test_a_url_that_cannot_be_read_stops_the_start(make_settings: MakeSettings, url: str) -> None:
    with pytest.raises(StartError, match=r"^--redis-url or HOLDGATE_REDIS_URL: "):
        async with running(make_settings(redis_url=url, store="redis")):
            pass


async def test_adopting_what_is_not_there_says_so(make_settings: MakeSettings) -> None:
    with pytest.raises(StartError, match="nothing to adopt"):
        await adopt_store(make_settings())
    with pytest.raises(StartError, match=r"127\.0\.0\.1"):
        await adopt_store(make_settings(store="redis", redis_url=f"redis://127.0.0.1:{free_port()}"))


async def test_an_embedded_store_is_adopted_while_no_server_runs(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(store="embedded")
    async with running(settings):
        pass
    await asyncio.to_thread(forget_everything, tmp_path)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await health_turns(channel, NOT_SERVING)
        fault = await fault_of(QuotaServiceStub(channel).CheckAndReserve(WORK))
        assert fault.reason == "STORE_LOST"
    assert "adopted" in await adopt_store(settings)
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await health_turns(channel, SERVING)


def forget_everything(data_dir: Path) -> None:
    """What is left when somebody deletes the store's files and not the server's."""
    for path in sorted((data_dir / "appendonlydir").glob("*")):
        path.unlink()
    (data_dir / "appendonlydir").rmdir()
