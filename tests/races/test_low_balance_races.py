"""Many settles at once, over several connections, on real stores: a balance falls to each of its marks once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest

from server.domain.operation import TenantRef
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import balance, policy
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Tenant

CONNECTIONS: Final = 8
SETTLES: Final = 200
RUNS: Final = 10
OPENING: Final = 1000
MARKS: Final = (500, 100, 0)


@pytest.fixture
async def engines(store: RunningStore, connect: Connect) -> AsyncIterator[Sequence[RedisEngine]]:
    clock = Clock()
    yield [RedisEngine(await connect(store), clock=clock) for _ in range(CONNECTIONS)]
    assert broken_rules(snapshot(store)) == []


@pytest.mark.parametrize("burn", ["", "312"], ids=["one sum", "grants apart"])
async def test_settles_at_once_across_the_marks_tell_each_of_them_once(
    burn: str, engines: Sequence[RedisEngine]
) -> None:
    rules = policy(balance("credits", burn=burn, ledger=bool(burn), thresholds=MARKS))
    for run in range(RUNS):
        crowd = [Tenant(engine, Clock(), rules, TenantRef("lab", f"t{run}")) for engine in engines]
        await crowd[0].open(credits=OPENING)
        for one in crowd:
            one.account = crowd[0].account
        for number in range(SETTLES):
            await crowd[0].grant(f"h{number}", credits=OPENING // SETTLES)

        await asyncio.gather(*(crowd[number % CONNECTIONS].settle(f"h{number}") for number in range(SETTLES)))

        notes = await crowd[0].engine.notes(crowd[0].ref, "", 100, WITHIN_S)
        assert [(note.mark, note.left) for note in notes] == [(mark, mark) for mark in MARKS]
