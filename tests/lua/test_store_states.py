"""The engine on a store that is full, forgets its scripts, grants few rights, or loses its answers."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from server.domain.errors import HoldgateError, StoreUnavailableError
from server.domain.hold import State
from server.domain.operation import TenantRef
from server.engine.base import Granted, Replayed
from server.engine.client import StoreConnection
from server.engine.memory_engine import MemoryEngine
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.redis_engine import RedisEngine
from server.engine.store_errors import StoreError
from tests.lua.scenes import AMOUNTS, LAB, OPERATIONS, UNDATED, Scene
from tests.policies_for_tests import TERMS
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, cutting_proxy, running_store
from tests.tenants import Clock, Tenant
from tests.waiting import until

# a full store


@pytest.fixture
def full(store: RunningStore) -> Iterator[RunningStore]:
    """The store, to be filled by the test; with room again afterwards."""
    yield store
    store.command("CONFIG", "SET", "maxmemory", 0)


TAKING: Final = ["reserve", "write account"]
GIVING_BACK: Final = ["settle", "release", "report"]
READING: Final = ["look", "find"]


@pytest.mark.parametrize("operation", TAKING)
async def test_a_full_store_refuses_to_take(operation: str, full: RunningStore, connection: StoreConnection) -> None:
    scene = await Scene.build(full, connection)
    before = snapshot(full)
    full.command("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(StoreUnavailableError) as error:
        await OPERATIONS[operation](scene.tenant)

    assert error.value.metadata == {"reason": "oom"}
    assert snapshot(full) == before


@pytest.mark.parametrize("operation", [*GIVING_BACK, *READING])
async def test_a_full_store_gives_back_and_tells(
    operation: str, full: RunningStore, connection: StoreConnection
) -> None:
    scene = await Scene.build(full, connection)
    full.command("CONFIG", "SET", "maxmemory", 1)

    await OPERATIONS[operation](scene.tenant)

    assert broken_rules(snapshot(full)) == []


async def test_a_full_store_still_ends_leases(full: RunningStore, connection: StoreConnection) -> None:
    scene = await Scene.build(full, connection)
    full.command("CONFIG", "SET", "maxmemory", 1)
    scene.make_overdue()

    assert await scene.tenant.engine.sweep() == 1
    assert (await scene.tenant.hold("h")).state is State.EXPIRED


# a store that forgets its scripts


class Forgetful:
    """Passes calls on to a store, whose script cache is emptied before every `every`-th of them."""

    def __init__(self, connection: StoreConnection, every: int) -> None:
        self._connection = connection
        self._every = every
        self._calls = 0

    async def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Reply:
        self._calls += 1
        if self._calls % self._every == 0:
            await self._connection.call("SCRIPT", "FLUSH")
        return await self._connection.evalsha(script, keys, args, timeout_s, heard)

    async def call(self, *words: Word, timeout_s: float = 1.0) -> Reply:
        return await self._connection.call(*words, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._connection.close()


async def a_day(tenant: Tenant) -> list[object]:
    """All that happens to a tenant in a busy hour, and every answer."""
    await tenant.open(credits=200)
    answers: list[object] = []
    for number in range(12):
        hold_id = f"h{number}"
        answers.append(await tenant.reserve(tenant.plan(hold_id, **AMOUNTS)))
        answers.append(await tenant.reserve(tenant.plan(hold_id, **AMOUNTS)))
        for operation in (
            tenant.report(hold_id, {"tokens": 5}),
            tenant.extend(hold_id, tenant.plan(tokens=25), {"credits": 3}),
            tenant.release(hold_id) if number % 3 == 0 else tenant.settle(hold_id, {"credits": number}),
        ):
            try:
                answers.append(await operation)
            except HoldgateError as error:
                answers.append((type(error), error.message))
        tenant.clock.advance(7000)
        answers.append(await tenant.figures())
    await tenant.grant("left", credits=1)
    tenant.clock.advance(TERMS.lease_ms)
    answers.append(await tenant.engine.sweep())
    return answers


@pytest.mark.parametrize("every", [1, 2, 3, 7])
async def test_script_flush_no_double_effect(every: int, store: RunningStore, connection: StoreConnection) -> None:
    """Nothing fails, nothing happens twice: every answer is that of an engine without any scripts."""
    clock, other_clock = Clock(), Clock()
    forgetful = Tenant(RedisEngine(Forgetful(connection, every), clock=clock), clock, LAB)

    answers = await a_day(forgetful)

    assert answers == await a_day(Tenant(MemoryEngine(other_clock), other_clock, LAB))
    assert broken_rules(snapshot(store)) == []


async def test_a_flush_between_calls_in_flight_is_answered_for_each(
    store: RunningStore, connection: StoreConnection
) -> None:
    """Many calls in one write, with the flush in their midst."""
    clock = Clock()
    tenant = Tenant(RedisEngine(connection, clock=clock), clock, LAB)
    plans = [tenant.plan(f"h{number}", tokens=1) for number in range(20)]
    calls = [tenant.engine.reserve(plan, plan.operation.request_id, 5.0) for plan in plans]
    flush = connection.call("SCRIPT", "FLUSH")
    answers = await asyncio.gather(*calls[:10], flush, *calls[10:])

    assert sum(isinstance(answer, Granted) for answer in answers) == 5  # the pool's places
    assert (await tenant.figures())["jobs"].used == 5
    assert broken_rules(snapshot(store)) == []


# few rights


RIGHTS: Final = (
    *("on", ">secret", "~hg:*", "+@read", "+@write", "+eval", "+evalsha", "+script|load", "+time", "+ping"),
    "-@dangerous",
)


@pytest.mark.parametrize("cluster", [False, True], ids=["single", "cluster"])
async def test_the_engine_needs_few_rights(cluster: bool) -> None:  # noqa: FBT001  # a row
    """Those of the ACL user that the manual recommends; what is not Holdgate's is out of its reach."""
    with running_store(tcp=True, cluster=cluster) as store:
        store.command("ACL", "SETUSER", "holdgate", *RIGHTS)
        connection = StoreConnection(store.url.replace("//", "//holdgate:secret@"))
        await connection.connect()
        clock, other_clock = Clock(), Clock()

        answers = await a_day(Tenant(RedisEngine(connection, clock=clock), clock, LAB))
        by_the_stores_clock = Tenant(RedisEngine(connection), clock, UNDATED, TenantRef("lab", "real time"))
        await by_the_stores_clock.open(credits=100)
        await by_the_stores_clock.grant("h", credits=1)

        assert answers == await a_day(Tenant(MemoryEngine(other_clock), other_clock, LAB))
        for words in (("FLUSHALL",), ("KEYS", "*"), ("GET", "foreign"), ("CONFIG", "GET", "*"), ("SET", "x", "y")):
            with pytest.raises(StoreError):
                await connection.call(*words)
        await connection.close()


# the store's own clock


async def test_without_a_test_clock_the_stores_own_decides(store: RunningStore, connection: StoreConnection) -> None:
    """0 asks the store; both ways give the same decision."""
    clock = Clock(0)
    tenant = Tenant(RedisEngine(connection, clock=clock), clock, UNDATED)
    seconds, micros = store.command("TIME")
    before_ms = int(seconds) * 1000 + int(micros) // 1000

    granted = await tenant.grant("h", tokens=5)
    hold = await tenant.hold("h")

    assert before_ms <= granted.now_ms <= before_ms + 60_000
    assert hold.lease_ends_at_ms == granted.now_ms + TERMS.lease_ms
    assert await tenant.engine.sweep() == 0
    clock.now_ms = granted.now_ms + TERMS.lease_ms
    assert await tenant.engine.sweep() == 1


# lost answers


async def test_a_grant_whose_answer_was_lost_is_found_by_its_id(valkey: RunningStore) -> None:
    """The script ran and the connection broke: asking again gets that grant, and there is one hold."""
    valkey.command("FLUSHALL")
    async with cutting_proxy(valkey) as proxy:
        connection = StoreConnection(proxy.url)
        await connection.connect()
        clock = Clock()
        tenant = Tenant(RedisEngine(connection, clock=clock), clock, LAB)
        await tenant.open(credits=100)
        proxy.cut_at_reply = True
        with pytest.raises(StoreUnavailableError):
            await tenant.reserve(tenant.plan("h", credits=10))
        proxy.cut_at_reply = False
        await until(lambda: connection.connected, what="the next connection")

        again = await tenant.reserve(tenant.plan("h", credits=10))

        assert isinstance(again, Replayed)
        assert (await tenant.figures())["credits"].held == 10
        await connection.close()


async def test_a_slow_answer_is_looked_up_once_and_the_script_sent_once(valkey: RunningStore) -> None:
    valkey.command("FLUSHALL")
    async with cutting_proxy(valkey) as proxy:
        connection = StoreConnection(proxy.url)
        await connection.connect()
        clock = Clock()
        tenant = Tenant(RedisEngine(connection, clock=clock), clock, LAB)
        await tenant.grant("first", tokens=1)
        proxy.swallow_replies = True
        sent = len(proxy.received)
        with pytest.raises(StoreUnavailableError):
            await tenant.engine.reserve(tenant.plan("h", tokens=1), "h", 0.2)

        assert bytes(proxy.received[sent:]).count(b"EVALSHA") == 2  # the script, and one look at the id
        assert bytes(proxy.received[sent:]).count(b"EVAL\r") == 0
        await connection.close()
