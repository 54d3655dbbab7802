"""The process's connection to a real store, through everything that may happen to it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from server.engine import client, pipeline
from server.engine.client import StoreConnection
from server.engine.pipeline import StoreCall
from server.engine.store_errors import OutcomeUnknown, StoreError, StoreUnavailable, StoreUnsuitable
from tests.stores import REDIS, VALKEY, RunningStore, TestScript, cutting_proxy, free_port, running_store
from tests.waiting import until

COUNT = TestScript(b"#!lua\nreturn redis.call('INCR', KEYS[1])")
ECHO = TestScript(b"#!lua\nreturn ARGV[1]")
PROMPT_S = 0.3
"""Immediately, on a machine that is busy with other tests."""


@pytest.fixture(params=[VALKEY, REDIS], ids=["valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[RunningStore]:
    if request.param is None:
        pytest.skip("no redis-server on the PATH")
    with running_store("--appendonly", "yes", binary=request.param) as store:
        yield store


@pytest.fixture
async def connection(store: RunningStore) -> AsyncIterator[StoreConnection]:
    async with connected(store.url) as connection:
        yield connection


async def test_each_of_many_concurrent_calls_gets_its_own_reply(connection: StoreConnection) -> None:
    replies = await asyncio.gather(*(connection.evalsha(ECHO, (), (number,), 5.0) for number in range(5_000)))
    assert replies == [b"%d" % number for number in range(5_000)]


async def test_cancelled_calls_cross_no_replies_and_close_nothing(connection: StoreConnection) -> None:
    """Ten thousand calls, about a third of them given up before, while and after they are sent."""
    chance = random.Random(7)  # noqa: S311  # a test's choices, the same in each run
    client_id = await connection.call("CLIENT", "ID")

    async def echo(number: int) -> None:
        call = asyncio.ensure_future(connection.evalsha(ECHO, (), (number,), 5.0))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 1 / 3:
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
        else:
            assert await call == b"%d" % number

    for start in range(0, 10_000, 500):
        await asyncio.gather(*(echo(number) for number in range(start, start + 500)))
    assert await connection.call("CLIENT", "ID") == client_id


async def test_a_forgotten_script_is_loaded_again_and_runs_once_per_call(
    store: RunningStore, connection: StoreConnection
) -> None:
    for turn in range(20):
        calls = [connection.evalsha(COUNT, (b"count",), (), 5.0) for _ in range(25)]
        calls.insert(turn, connection.call("SCRIPT", "FLUSH"))
        await asyncio.gather(*calls)
    assert store.command("GET", "count") == b"500"


async def test_a_frozen_store_makes_each_call_end_at_its_own_deadline(
    store: RunningStore, connection: StoreConnection
) -> None:
    """The connection outlives a freeze that is shorter than the limit, and the late replies reach nobody."""
    client_id = await connection.call("CLIENT", "ID")
    await connection.evalsha(ECHO, (), ("warm",), 1.0)
    store.freeze()

    async def overrun_s(timeout_s: float) -> float:
        start = time.monotonic()
        with pytest.raises(OutcomeUnknown) as unknown:
            await connection.evalsha(ECHO, (), ("late",), timeout_s)
        assert unknown.value.reason == "timeout"
        return time.monotonic() - start - timeout_s

    overruns_s = await asyncio.gather(*(overrun_s(ms / 1000) for ms in (100, 5, 20, 10, 50, 5)))
    assert min(overruns_s) >= 0
    assert max(overruns_s) < PROMPT_S
    store.thaw()
    assert await connection.evalsha(ECHO, (), ("after",), 1.0) == b"after"
    assert await connection.call("CLIENT", "ID") == client_id


async def test_a_store_frozen_for_long_costs_one_connection_not_the_service(
    store: RunningStore, connection: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection is given up, however patient its first call; calls meanwhile wait for the new one."""
    monkeypatch.setattr(pipeline, "STALL_S", 0.1)
    monkeypatch.setattr(client, "STEADY_S", 0.0)
    store.freeze()
    patient = connection.call("GET", "count", timeout_s=60.0)
    with pytest.raises(OutcomeUnknown):
        await connection.call("INCR", "count", timeout_s=0.02)
    await until(lambda: not connection.connected, what="the connection to be given up")
    with pytest.raises(OutcomeUnknown):
        await patient
    with pytest.raises(StoreUnavailable):
        await connection.call("INCR", "refused", timeout_s=0.02)
    waiting = connection.call("INCR", "waited", timeout_s=5.0)
    store.thaw()
    assert await waiting == 1
    assert store.command("EXISTS", "refused") == 0


async def test_a_killed_store_fails_calls_at_once_and_is_found_again(
    store: RunningStore, connection: StoreConnection
) -> None:
    assert await connection.call("INCR", "count") == 1
    store.freeze()
    in_flight = connection.call("INCR", "count", timeout_s=30.0)
    await asyncio.sleep(0)  # the turn ends and the call leaves
    store.kill()
    start = time.monotonic()
    with pytest.raises(OutcomeUnknown) as unknown:
        await in_flight
    assert unknown.value.reason == "connection_lost"
    await until(lambda: not connection.connected, what="the loss to be noticed")
    with pytest.raises(StoreUnavailable, match="no connection to the store") as refused:
        await connection.call("INCR", "count", timeout_s=30.0)
    assert refused.value.reason == "disconnected"
    assert time.monotonic() - start < PROMPT_S
    store.start()
    await until(lambda: connection.connected, what="the connection to come back")
    assert await connection.call("INCR", "count") == 2


async def test_a_swallowed_reply_is_an_unknown_outcome_and_one_execution(store: RunningStore) -> None:
    async with cutting_proxy(store) as proxy, connected(proxy.url) as connection:
        await connection.evalsha(COUNT, (b"count",), (), 1.0)
        proxy.swallow_replies = True
        already = len(proxy.received)
        with pytest.raises(OutcomeUnknown):
            await connection.evalsha(COUNT, (b"count",), (), 0.05)
        await until(lambda: store.command("GET", "count") == b"2", what="the execution")
        assert proxy.received[already:].count(b"EVALSHA") == 1
        assert proxy.connections == 1


async def test_a_reply_cut_off_is_an_unknown_outcome_and_one_execution(store: RunningStore) -> None:
    async with cutting_proxy(store) as proxy, connected(proxy.url) as connection:
        assert await connection.evalsha(COUNT, (b"count",), (), 5.0) == 1
        for count in range(2, 6):
            await until(lambda: connection.connected, what="the connection")
            proxy.cut_at_reply = True
            with pytest.raises(OutcomeUnknown) as unknown:
                await connection.evalsha(COUNT, (b"count",), (), 5.0)
            assert unknown.value.reason == "connection_lost"
            assert store.command("GET", "count") == b"%d" % count
            proxy.cut_at_reply = False
        await until(lambda: connection.connected, what="the connection")
        assert await connection.evalsha(COUNT, (b"count",), (), 5.0) == 6


async def test_random_cuts_never_execute_a_call_twice_nor_lose_an_answered_one(store: RunningStore) -> None:
    """Each call has a counter of its own: answered means 1, unavailable means 0, unknown means 0 or 1."""
    chance = random.Random(11)  # noqa: S311  # a test's choices, the same in each run
    outcomes: dict[int, str] = {}

    async with cutting_proxy(store) as proxy, connected(proxy.url) as connection:

        async def count(number: int) -> None:
            try:
                assert await connection.evalsha(COUNT, (b"call:%d" % number,), (), 2.0) == 1
                outcomes[number] = "answered"
            except StoreError as error:
                outcomes[number] = type(error).__name__

        async with asyncio.TaskGroup() as calls:
            for number in range(2_000):
                calls.create_task(count(number))
                await asyncio.sleep(0)
                if chance.random() < 0.01:
                    proxy.cut()
                    await until(lambda: connection.connected, what="the connection")

    for number, outcome in outcomes.items():
        executed = int(store.command("GET", f"call:{number}") or 0)
        assert executed in {"answered": {1}, "StoreUnavailable": {0}, "OutcomeUnknown": {0, 1}}[outcome]
    assert set(outcomes.values()) >= {"answered", "OutcomeUnknown"}


async def test_connecting_to_nobody_fails_and_goes_on_in_the_background() -> None:
    with running_store(tcp=True) as store:
        store.kill()
        connection = StoreConnection(store.url)
        with pytest.raises(StoreUnavailable, match="cannot reach the store"):
            await connection.connect()
        with pytest.raises(StoreUnavailable, match="cannot reach the store"):
            await connection.call("PING")
        store.start()
        await until(lambda: connection.connected, what="the connection")
        await connection.connect()
        assert await connection.call("PING") == b"PONG"
        await connection.close()


async def test_calls_before_the_connection_is_up_wait_for_it(store: RunningStore) -> None:
    connection = StoreConnection(store.url)
    store.freeze()
    connecting = asyncio.create_task(connection.connect())
    await asyncio.sleep(0)
    given_up = connection.call("INCR", "given up", timeout_s=0.02)
    waiting = [connection.call("INCR", "count", timeout_s=5.0) for _ in range(3)]
    with pytest.raises(StoreUnavailable):
        await given_up
    store.thaw()
    assert await asyncio.gather(*waiting) == [1, 2, 3]
    await connecting
    assert store.command("EXISTS", "given up") == 0
    await connection.close()


async def test_calls_that_wait_for_a_connection_are_bounded(store: RunningStore) -> None:
    connection = StoreConnection(store.url, max_in_flight=2)
    store.freeze()
    connecting = asyncio.create_task(connection.connect())
    await asyncio.sleep(0)
    waiting = [connection.call("INCR", "count") for _ in range(2)]
    with pytest.raises(StoreUnavailable):
        await connection.call("INCR", "count")
    store.thaw()
    await asyncio.gather(connecting, *waiting)
    await connection.close()


async def test_a_store_that_takes_nothing_is_not_fed_without_end(
    store: RunningStore, connection: StoreConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STALL_S", 0.5)
    store.freeze()
    large = b"x" * (1024 * 1024)
    calls = []
    for _ in range(50):
        calls.append(connection.call("SET", "key", large, timeout_s=0.1))
        await asyncio.sleep(0)
    errors = [error for error in await asyncio.gather(*calls, return_exceptions=True) if isinstance(error, StoreError)]
    assert len(errors) == 50
    assert {error.reason for error in errors} == {"timeout", "overloaded"}
    assert sum(error.reason == "timeout" for error in errors) < 20


async def test_a_check_on_connect_sees_the_store_first_and_may_refuse_it(store: RunningStore) -> None:
    async def wants_a_mark(call: StoreCall) -> None:
        if await call("GET", "mark") is None:
            raise StoreUnsuitable("the store has no mark", reason="unmarked")

    connection = StoreConnection(store.url, on_connect=[wants_a_mark])
    with pytest.raises(StoreUnsuitable, match="no mark"):
        await connection.connect()
    with pytest.raises(StoreUnavailable, match="no mark"):
        await connection.call("INCR", "count")
    store.command("SET", "mark", 1)
    await until(lambda: connection.connected, what="the check to pass")
    assert await connection.call("INCR", "count") == 1
    await connection.close()


async def test_a_check_that_breaks_is_a_reason_not_to_connect(
    store: RunningStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(call: StoreCall) -> None:
        await call("PING")
        raise ZeroDivisionError("a bug")

    connection = StoreConnection(store.url, on_connect=[broken])
    with pytest.raises(StoreUnavailable, match="ZeroDivisionError: a bug"):
        await connection.connect()
    await connection.close()
    assert "a bug" in caplog.text


async def test_closing_ends_what_is_in_flight_and_refuses_what_follows(
    store: RunningStore, connection: StoreConnection
) -> None:
    store.freeze()
    in_flight = connection.call("INCR", "count")
    await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(OutcomeUnknown):
        await in_flight
    with pytest.raises(StoreUnavailable, match="closed"):
        await connection.call("INCR", "count")
    store.thaw()
    await connection.connect()
    assert await connection.call("PING") == b"PONG"


@pytest.mark.parametrize(
    ("login", "complaint"),
    [("", "wants a password"), (":wrong@", "refused the user or password"), ("limited:secret@", None)],
)
async def test_logging_in(store: RunningStore, login: str, complaint: str | None) -> None:
    """A user with no more rights than the scripts need gets in; others are told what the URL lacks."""
    rights = ["~hg:*", "+@read", "+@write", "+eval", "+evalsha", "+script|load", "+time", "+ping", "-@dangerous"]
    store.command("ACL", "SETUSER", "limited", "on", ">secret", *rights)
    store.command("CONFIG", "SET", "requirepass", "another")
    connection = StoreConnection(store.url.replace("unix://", f"unix://{login}"))
    if complaint is None:
        await connection.connect()
        assert await connection.evalsha(COUNT, (b"hg:count",), (), 1.0) == 1
    else:
        with pytest.raises(StoreUnsuitable, match=complaint):
            await connection.connect()
    await connection.close()


async def test_the_database_of_the_url_is_used_after_each_reconnect(store: RunningStore) -> None:
    async with cutting_proxy(store) as proxy, connected(proxy.url.replace("/0", "/3")) as connection:
        await connection.call("SET", "key", "in three")
        proxy.cut()
        await until(lambda: proxy.connections > 1 and connection.connected, what="the new connection")
        assert await connection.call("GET", "key") == b"in three"
    assert store.command("GET", "key") is None


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", StoreUnsuitable, "no Redis server at .*HTTP/1.1 400"),
        (b"", StoreUnavailable, "hung up while connecting"),
        (None, StoreUnavailable, "answers nothing within 0.2 s"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable, "still loading"),
    ],
    ids=["http", "hangs up", "silent", "loading"],
)
async def test_a_port_that_is_no_ready_store_is_described(
    answer: bytes | None, error: type[StoreError], complaint: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000) and answer != b"":
            writer.write(answer or b"")
        writer.close()

    port = free_port()
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        connection = StoreConnection(f"redis://127.0.0.1:{port}", connect_timeout_s=0.2)
        with pytest.raises(error, match=complaint):
            await connection.connect()
        await connection.close()


async def test_a_store_with_no_connection_left_is_tried_again(store: RunningStore, connection: StoreConnection) -> None:
    await connection.call("CONFIG", "SET", "maxclients", 1)
    another = StoreConnection(store.url)
    with pytest.raises(StoreUnavailable):
        await another.connect()
    await connection.call("CONFIG", "SET", "maxclients", 100)
    await until(lambda: another.connected, what="room for another connection")
    await another.close()


async def test_a_cluster_of_one_node_serves_and_says_when_it_lacks_slots() -> None:
    with running_store(cluster=True) as store:
        async with connected(store.url) as connection:
            assert await connection.evalsha(COUNT, (b"hg:{a}:count",), (), 1.0) == 1
            store.command("CLUSTER", "DELSLOTSRANGE", 0, 16383)
            with pytest.raises(StoreUnavailable) as refused:
                await connection.evalsha(COUNT, (b"hg:{a}:count",), (), 1.0)
            assert refused.value.reason == "clusterdown"


@pytest.mark.parametrize(
    "scenario",
    [
        test_each_of_many_concurrent_calls_gets_its_own_reply,
        test_cancelled_calls_cross_no_replies_and_close_nothing,
    ],
)
async def test_the_same_on_uvloop(
    scenario: Callable[[StoreConnection], Coroutine[None, None, None]], store: RunningStore
) -> None:
    async def play() -> None:
        async with connected(store.url) as connection:
            await scenario(connection)

    await asyncio.to_thread(uvloop.run, play())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_a_reply_that_came_during_a_long_turn_still_counts(
    run: Callable[[Coroutine[None, None, None]], None], store: RunningStore
) -> None:
    """The deadline has passed when the loop comes around, but the socket is read before timers are run."""

    async def play() -> None:
        async with connected(store.url) as connection:
            await connection.evalsha(ECHO, (), ("warm",), 1.0)
            call = connection.evalsha(ECHO, (), ("in time",), 0.02)
            await asyncio.sleep(0)  # the turn ends and the call leaves
            time.sleep(0.1)  # noqa: ASYNC251  # the busy turn, while the answer arrives
            assert await call == b"in time"

    await asyncio.to_thread(run, play())


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[StoreConnection]:
    connection = StoreConnection(url)
    await connection.connect()
    try:
        yield connection
    finally:
        await connection.close()
