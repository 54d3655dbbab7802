"""WatchNotifications: whoever listens is told each crossing once, in order, and can come back for what it missed."""

import asyncio

import pytest
from grpc import StatusCode, aio
from quota.v1 import admin_service_pb2 as admin

from server import notices
from server.engine import subscription
from tests.notices.conftest import WITHIN_S, OpenServer, Server, Watch, percents, seen
from tests.stores import RunningStore, cutting_proxy
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("_quick")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may hang on a timer: whoever waits for a wake-up that does not come, waits too long."""
    monkeypatch.setattr(notices, "READ_AGAIN_S", 600.0)


async def error_of(watch: Watch) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await watch.read()
    return caught.value


async def test_a_watch_tells_what_was_noted_before_it_and_then_what_comes(server: Server) -> None:
    await server.use(50)
    watch = server.watch(timeout=WITHIN_S)
    assert percents(await seen(watch, 1)) == [50]
    await server.use(30)
    await server.use(20)
    told = await seen(watch, 2)
    assert percents(told) == [80, 100]
    assert told == (await server.listed())[1:]
    watch.cancel()


async def test_a_watch_says_that_it_stands_before_there_is_anything_to_tell(server: Server) -> None:
    watch = server.watch(timeout=WITHIN_S)
    await watch.initial_metadata()
    await server.use(50, project="p1")
    told = await seen(watch, 1)
    assert (told[0].limit_id, dict(told[0].scope), told[0].percent, told[0].used) == ("frames", {}, 50, 50)
    watch.cancel()


async def test_who_comes_back_with_the_last_id_seen_misses_nothing_and_hears_nothing_twice(server: Server) -> None:
    await server.use(50)
    watch = server.watch(timeout=WITHIN_S)
    last = (await seen(watch, 1))[0].id
    watch.cancel()
    await server.use(50)
    again = server.watch(after_id=last, timeout=WITHIN_S)
    assert percents(await seen(again, 2)) == [80, 100]
    await server.use(100, project="p1")
    assert (await seen(again, 1))[0].scope == {"project": "p1"}
    again.cancel()


async def test_a_watch_tells_more_than_it_reads_at_once(server: Server) -> None:
    projects = [f"p{number:03}" for number in range(notices.PAGE + 20)]
    for project in projects:
        await server.use(100, project=project)
    watch = server.watch(timeout=WITHIN_S)
    told = await seen(watch, len(projects) + 3)
    assert [each.scope["project"] for each in told if each.limit_id == "project-frames"] == projects
    watch.cancel()


async def test_a_watch_hears_of_its_own_tenant_alone(server: Server) -> None:
    watches = {tenant: server.watch(tenant, timeout=WITHIN_S) for tenant in ("o1", "o2", "o3")}
    for watch in watches.values():
        await watch.initial_metadata()
    await server.use(100, "o2")
    await server.use(50, "o3")
    assert percents(await seen(watches["o2"], 3)) == [50, 80, 100]
    assert percents(await seen(watches["o3"], 1)) == [50]
    await server.use(80, "o1")
    assert percents(await seen(watches["o1"], 2)) == [50, 80]
    for watch in watches.values():
        watch.cancel()


async def test_a_reader_that_does_not_read_holds_nobody_up(server: Server) -> None:
    idle = [server.watch(timeout=WITHIN_S) for _ in range(5)]
    watch = server.watch(timeout=WITHIN_S)
    for number in range(60):
        await server.use(100, project=f"p{number}")
    assert len(await seen(watch, 63)) == 63
    for each in (*idle, watch):
        each.cancel()


@pytest.mark.parametrize("after_id", ["x", "1-2-3", "-1", "$", "18446744073709551616", "1" * 21])
async def test_what_is_no_id_is_named(server: Server, after_id: str) -> None:
    error = await error_of(server.watch(after_id=after_id, timeout=WITHIN_S))
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert "after_id" in str(error.details())


async def test_no_tenant_is_an_error(server: Server) -> None:
    error = await error_of(server.watch("", timeout=WITHIN_S))
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "tenant: must not be empty")


async def test_a_deadline_ends_a_watch(server: Server) -> None:
    assert (await error_of(server.watch(timeout=0.2))).code() is StatusCode.DEADLINE_EXCEEDED


async def test_a_watch_too_many_is_refused_and_a_cancelled_one_makes_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "MOST_WATCHES", 2)
    await server.use(50)
    watches = [server.watch(timeout=WITHIN_S) for _ in range(2)]
    for watch in watches:
        await seen(watch, 1)
    error = await error_of(server.watch(timeout=WITHIN_S))
    assert (error.code(), "2 watches" in str(error.details())) == (StatusCode.UNAVAILABLE, True)
    watches[0].cancel()
    async with asyncio.timeout(WITHIN_S):
        while True:
            another = server.watch(timeout=WITHIN_S)
            answer = await _read_or_error(another)
            if isinstance(answer, admin.WatchNotificationsResponse):
                break
            assert answer is StatusCode.UNAVAILABLE
    another.cancel()
    watches[1].cancel()


async def _read_or_error(watch: Watch) -> object:
    try:
        return await watch.read()
    except aio.AioRpcError as error:
        return error.code()


@pytest.mark.parametrize("transport", ["grpcio", "asgi"])
async def test_watches_end_with_ok_when_the_server_stops(open_server: OpenServer, transport: str) -> None:
    async with open_server(transport=transport) as server:
        await server.use(50)
        watches = [server.watch(timeout=WITHIN_S) for _ in range(20)]
        for watch in watches:
            assert percents(await seen(watch, 1)) == [50]
        ends = [asyncio.create_task(watch.read()) for watch in watches]
        codes = [asyncio.create_task(watch.code()) for watch in watches]
        stopping = asyncio.get_running_loop().time()
        await server.stop()
        assert asyncio.get_running_loop().time() - stopping < notices.READ_AGAIN_S
        assert [await end for end in ends] == [aio.EOF] * len(ends)
        assert [await code for code in codes] == [StatusCode.OK] * len(ends)


async def test_a_crossing_at_one_server_is_heard_at_another(open_server: OpenServer, store: RunningStore) -> None:
    async with open_server(store) as one, open_server(store) as other:
        watch = other.watch(timeout=WITHIN_S)
        await watch.initial_metadata()
        await one.use(100)
        assert percents(await seen(watch, 3)) == [50, 80, 100]
        watch.cancel()


async def test_many_watches_of_many_tenants_share_one_more_connection(
    open_server: OpenServer, valkey: RunningStore
) -> None:
    valkey.command("FLUSHALL")
    async with cutting_proxy(valkey) as proxy, open_server(proxy.url) as server:
        assert proxy.connections == 1
        watches = [server.watch(f"o{number % 50}", timeout=WITHIN_S) for number in range(200)]
        for watch in watches:
            await watch.initial_metadata()
        await asyncio.gather(*(server.use(50, f"o{number}") for number in range(50)))
        assert [percents(await seen(watch, 1)) for watch in watches] == [[50]] * 200
        assert proxy.connections == 2
        for watch in watches:
            watch.cancel()


async def test_a_watch_outlives_its_store_and_hears_what_it_missed(
    open_server: OpenServer, valkey: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wake-ups are lost with the connection, notes are not."""
    monkeypatch.setattr(subscription, "HEARTBEAT_S", 0.05)
    valkey.command("FLUSHALL")
    async with (
        cutting_proxy(valkey) as proxy,
        open_server(proxy.url) as watched,
        open_server(valkey) as other,
    ):
        watch = watched.watch(timeout=WITHIN_S)
        await other.use(50)
        assert percents(await seen(watch, 1)) == [50]
        await until(lambda: proxy.connections == 2, what="the subscription")
        proxy.cut()
        await other.use(50)
        assert percents(await seen(watch, 2)) == [80, 100]
        proxy.swallow_replies = True
        await other.use(1000, project="p1")
        await asyncio.gather(*(other.use(1000, project=f"p{number}") for number in range(2, 10)))
        proxy.swallow_replies = False
        proxy.cut()
        assert len(await seen(watch, 9)) == 9
        watch.cancel()


async def test_without_the_right_to_publish_or_subscribe_notes_are_read_again_in_time(
    open_server: OpenServer, monkeypatch: pytest.MonkeyPatch, valkey: RunningStore
) -> None:
    monkeypatch.setattr(notices, "READ_AGAIN_S", 0.1)
    valkey.command("FLUSHALL")
    valkey.command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "-@pubsub")
    url = f"unix://deaf:secret@{valkey.folder}/store.sock"
    async with open_server(url) as server:
        watch = server.watch(timeout=WITHIN_S)
        await watch.initial_metadata()
        await server.use(100)
        assert percents(await seen(watch, 3)) == [50, 80, 100]
        watch.cancel()
    valkey.command("ACL", "DELUSER", "deaf")
