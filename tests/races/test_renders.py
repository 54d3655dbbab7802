"""A thousand renders of one account at once, of random price and outcome: the ledger adds up to the unit."""

import asyncio
from random import Random
from typing import Final

import pytest

from server.domain.account import Account
from server.domain.hold import Fraction
from server.domain.limits import Balance
from server.domain.operation import Operation, TenantRef
from server.domain.plan import make_plan
from server.domain.reconcile import differences
from server.engine.base import AccountWrite, Granted
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import balance, policy
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Refills

RULES: Final = policy(balance("credits", burn="312", refill=5000, ledger=True))
CREDITS: Final = RULES.limits[0]
REF: Final = TenantRef("lab", "studio")
ACCOUNT: Final = Account(plan="free", version=1)
RENDERS: Final = 1000
CONNECTIONS: Final = 8


@pytest.fixture
async def engines(valkey: RunningStore, connect: Connect) -> list[RedisEngine]:
    valkey.command("FLUSHALL")
    clock = Clock()
    return [RedisEngine(await connect(valkey), clock=clock, refills=Refills(RULES)) for _ in range(CONNECTIONS)]


async def test_a_thousand_renders_end_with_a_ledger_that_adds_up(
    engines: list[RedisEngine], valkey: RunningStore
) -> None:
    assert isinstance(CREDITS, Balance)
    opening = AccountWrite(account=ACCOUNT, grants={CREDITS.cell: 5000}, balances={CREDITS.cell: CREDITS})
    await engines[0].write_account(REF, opening, WITHIN_S)
    random = Random(7)  # noqa: S311  # the same draws every time

    async def render(number: int, price: int, outcome: int, used: int) -> int:
        engine = engines[number % CONNECTIONS]
        hold_id = f"render-{number}"
        operation = Operation(ref=REF, action="work", request_id=hold_id, amounts={"credits": price})
        if not isinstance(await engine.reserve(make_plan(RULES, operation, ACCOUNT, 0), hold_id, WITHIN_S), Granted):
            return 0
        if outcome == 0:
            await engine.release(REF, hold_id, WITHIN_S)
            return 0
        if outcome == 1:
            await engine.settle(REF, hold_id, {"credits": used // 2}, final=False, within_s=WITHIN_S)
        delivered = Fraction(1, 2) if outcome == 3 else {"credits": used}
        settled = await engine.settle(REF, hold_id, delivered, final=True, within_s=WITHIN_S)
        totals = settled.meters["credits"]
        return (totals.reported or 0) - totals.uncollected

    draws = [(n, random.randint(1, 20), random.randint(0, 3), random.randint(0, 25)) for n in range(RENDERS)]
    charged = await asyncio.gather(*(render(*draw) for draw in draws))

    audit = await engines[0].audit(REF, [CREDITS.cell], WITHIN_S)
    entries = await engines[0].ledger(REF, 0, 2 * RENDERS, WITHIN_S)
    assert list(differences(audit.balances, entries)) == []
    totals = audit.balances[CREDITS.cell].totals
    assert (totals.charged, totals.held) == (sum(charged), 0)
    assert sum(entry.units for entry in entries) == totals.worth == 5000 - sum(charged)
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert broken_rules(snapshot(valkey)) == []
