"""The breaker before a real store: what opens it, what it spares callers and the store, and how it closes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pytest

from server.engine.client import StoreConnection
from server.engine.guarded_store import FAILURES_TO_OPEN, OPEN, GuardedStore
from server.engine.store_errors import OutcomeUnknown, ScriptFailed, StoreError, StoreUnavailable
from tests.stores import CuttingProxy, RunningStore, TestScript, cutting_proxy, running_store
from tests.waiting import until

ECHO: Final = TestScript(b"#!lua\nreturn ARGV[1]")
FAILS: Final = TestScript(b"#!lua\nreturn redis.call('INCR', 'no', 'such')")
WRITES: Final = TestScript(b"#!lua\nreturn redis.call('INCR', KEYS[1])")
BRIEF_S: Final = 0.15
LONG_S: Final = 60.0
"""A call that waited this long would fail its test."""


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store() as store:
        yield store


@asynccontextmanager
async def guarded(url: str) -> AsyncIterator[GuardedStore]:
    connection = StoreConnection(url)
    await connection.connect()
    guard = GuardedStore(connection)
    try:
        yield guard
    finally:
        await guard.close()


def newer(proxy: CuttingProxy, connections: int) -> bool:
    return proxy.connections > connections


async def echo(guard: GuardedStore, timeout_s: float = BRIEF_S) -> object:
    return await guard.evalsha(ECHO, (), ("x",), timeout_s)


async def fail(guard: GuardedStore, times: int = FAILURES_TO_OPEN, timeout_s: float = BRIEF_S) -> None:
    for _ in range(times):
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            await echo(guard, timeout_s)


async def test_a_store_that_is_frozen_opens_it_and_one_that_thaws_closes_it(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        store.freeze()
        await fail(guard, FAILURES_TO_OPEN - 1)
        opened = [guard.is_open]
        await fail(guard, 1)
        opened.append(guard.is_open)
        assert opened == [False, True]
        store.thaw()
        await until(lambda: not guard.is_open, what="the probe")
        assert await echo(guard, 5.0) == b"x"


async def test_while_it_is_open_no_call_waits(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        store.freeze()
        await fail(guard)
        calls = [echo(guard, LONG_S) for _ in range(1000)]
        plain = [guard.call("PING", timeout_s=LONG_S) for _ in range(1000)]
        async with asyncio.timeout(5):
            failures = await asyncio.gather(*calls, *plain, return_exceptions=True)
        assert {error.reason for error in failures if isinstance(error, StoreError)} == {OPEN}
        assert len(failures) == 2000
        store.thaw()


async def test_a_store_that_is_gone_opens_it_and_one_that_is_back_closes_it(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        store.kill()
        await fail(guard)
        assert guard.is_open
        store.start()
        await until(lambda: not guard.is_open, what="the probe")
        assert await echo(guard, 5.0) == b"x"


async def test_a_store_that_takes_no_writes_opens_it(store: RunningStore) -> None:
    """After a failover the old primary answers every call, and none of them is any use."""
    async with guarded(store.url) as guard:
        store.command("REPLICAOF", "127.0.0.1", 1)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await guard.evalsha(WRITES, (b"n",), (), 5.0)
        assert guard.is_open
        store.command("REPLICAOF", "NO", "ONE")
        await until(lambda: not guard.is_open, what="the probe")


async def test_failures_among_answers_do_not_add_up(store: RunningStore) -> None:
    async with cutting_proxy(store) as proxy, guarded(proxy.url) as guard:
        for _ in range(3):
            proxy.swallow_replies = True
            await fail(guard, FAILURES_TO_OPEN - 1)
            proxy.swallow_replies = False
            connections = proxy.connections
            proxy.cut()  # after a lost reply the others would be taken for it
            await until(partial(newer, proxy, connections), what="a new connection")
            assert await echo(guard, 5.0) == b"x"
        assert not guard.is_open


async def test_callers_in_a_hurry_do_not_open_it_for_others(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        for _ in range(FAILURES_TO_OPEN * 3):
            with pytest.raises(OutcomeUnknown, match="no answer within"):
                await echo(guard, 0.0)
        assert not guard.is_open


async def test_callers_in_a_hurry_find_that_a_store_is_frozen(store: RunningStore) -> None:
    """Each waits for less than would tell; the silence is as long for all of them."""
    async with guarded(store.url) as guard:
        store.freeze()
        async with asyncio.timeout(20):
            while not guard.is_open:
                await fail(guard, 1, 0.02)
        store.thaw()


async def test_a_call_that_is_wrong_in_itself_does_not_open_it(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        for _ in range(FAILURES_TO_OPEN * 2):
            with pytest.raises(ScriptFailed):
                await guard.evalsha(FAILS, (), (), 5.0)
        assert not guard.is_open


async def test_one_probe_asks_at_a_time_whatever_waits(store: RunningStore) -> None:
    async with cutting_proxy(store) as proxy, guarded(proxy.url) as guard:
        proxy.swallow_replies = True
        await fail(guard)
        await asyncio.gather(*(echo(guard) for _ in range(100)), return_exceptions=True)
        asked = proxy.received.count(b"hg:probe")
        await until(lambda: proxy.received.count(b"hg:probe") > asked, what="another probe")
        assert proxy.received.count(b"hg:probe") <= asked + 1
        proxy.swallow_replies = False
        proxy.cut()
        await until(lambda: not guard.is_open, what="the probe")


async def test_closing_ends_the_probing(store: RunningStore) -> None:
    async with guarded(store.url) as guard:
        store.kill()
        await fail(guard)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "store probe"]
