"""Many settles at once, over several connections, on real stores: a quota is crossed once, at the exact unit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest

from server.domain.limits.quota import CycleUse
from server.domain.operation import Operation, TenantRef
from server.domain.plan import usage_plan
from server.domain.policy import Policy
from server.engine.base import Cycles, Granted, Refused
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import HOUR_MS, policy, quota
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import EVERYWHERE, WITHIN_S, Clock, Tenant

CONNECTIONS: Final = 8
SETTLES: Final = 200
RUNS: Final = 10
LIMIT: Final = 1000
DAY_MS: Final = 24 * HOUR_MS

GRACE: Final = policy(quota("q", LIMIT, grace_ms=DAY_MS), quota("each", None, scope=("project",)))
BILLED: Final = policy(quota("q", LIMIT, overage=None, price=200), quota("each", None, scope=("project",)))
HARD: Final = policy(quota("q", LIMIT))


@pytest.fixture
async def engines(store: RunningStore, connect: Connect) -> AsyncIterator[Sequence[RedisEngine]]:
    clock = Clock()
    yield [RedisEngine(await connect(store), clock=clock) for _ in range(CONNECTIONS)]
    assert broken_rules(snapshot(store)) == []


def tenants(engines: Sequence[RedisEngine], rules: Policy, name: str) -> list[Tenant]:
    """The same tenant, as each of several processes knows it."""
    return [Tenant(engine, Clock(), rules, TenantRef("lab", name)) for engine in engines]


async def current(tenant: Tenant) -> CycleUse:
    operation = Operation(ref=tenant.ref, action="", scope=EVERYWHERE)
    answer = await tenant.engine.cycles(usage_plan(tenant.policy, operation, tenant.account, tenant.clock()), WITHIN_S)
    assert isinstance(answer, Cycles)
    return answer.cycles[0][0]


@pytest.mark.parametrize("rules", [GRACE, BILLED], ids=["grace", "billed"])
@pytest.mark.parametrize("sizes", [[10], [1, 2, 30], [7, 13]], ids=["even", "odd", "across"])
async def test_a_month_of_settles_at_once_crosses_the_quota_once_at_the_exact_unit(
    rules: Policy, sizes: Sequence[int], engines: Sequence[RedisEngine]
) -> None:
    """Up to the limit to the unit, all else beyond it, one note for each threshold, by the settle that reached it."""
    units = [sizes[number % len(sizes)] for number in range(SETTLES)]
    for run in range(RUNS):
        crowd = tenants(engines, rules, f"t{run}")
        for number in range(SETTLES):
            await crowd[0].grant(f"h{number}", frames=units[number])

        await asyncio.gather(*(crowd[number % CONNECTIONS].settle(f"h{number}") for number in range(SETTLES)))

        cycle = await current(crowd[0])
        assert (cycle.used, cycle.within, cycle.held, cycle.over_hard) == (sum(units), LIMIT, 0, 0)
        assert cycle.overage + cycle.grace == sum(units) - LIMIT
        assert cycle.grace == 0 or rules is GRACE
        notes = await crowd[0].engine.notes(crowd[0].ref, "", 100, WITHIN_S)
        assert [note.percent for note in notes] == [80, 100]
        for note in notes:
            reached = LIMIT * note.percent // 100
            assert reached <= note.used < reached + max(sizes)


async def test_reserves_at_once_fill_a_hard_quota_to_the_last_whole_request(engines: Sequence[RedisEngine]) -> None:
    for run in range(RUNS):
        crowd = tenants(engines, HARD, f"t{run}")
        answers = await asyncio.gather(
            *(
                tenant.reserve(tenant.plan(f"h{number}", frames=30))
                for number in range(50)
                for tenant in [crowd[number % CONNECTIONS]]
            )
        )
        assert sum(isinstance(answer, Granted) for answer in answers) == LIMIT // 30
        assert all(isinstance(answer, Granted | Refused) for answer in answers)
        assert (await current(crowd[0])).held == LIMIT // 30 * 30
