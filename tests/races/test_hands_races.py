"""Resets and adjustments among settles, on connections of their own: nothing is lost, nothing falls below zero."""

import asyncio
from typing import Final

from server.domain.act import Act, Deed
from server.domain.plan import CheckForm
from server.engine.books import Outdated
from server.engine.hands import Adjustment, Reset
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import balance, policy, quota, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Tenant

LAB: Final = policy(
    window("tpm", 10**6, "tokens"), slots("jobs", 1000), quota("q", 10**6), balance("credits", ledger=True)
)
CALLERS: Final = 3
TURNS: Final = 60
STEP: Final = 7


def form(lab: Tenant, limit_id: str) -> CheckForm:
    plan = lab.plan(tokens=1, frames=1, credits=1)
    return next(check for check in plan.shape.checks if check.limit.id == limit_id)


async def test_what_operators_do_among_settles_adds_up(store: RunningStore, connect: Connect) -> None:
    """The balance to the unit; a quota that was set to nothing has what was settled since, and no hold's rest."""
    clock = Clock()
    labs = [Tenant(RedisEngine(await connect(store), clock=clock), clock, LAB) for _ in range(CALLERS + 1)]
    await labs[0].open(credits=10**6)
    for lab in labs:
        lab.account = labs[0].account
    adjusted = 0

    async def call(lab: Tenant, name: str) -> None:
        for turn in range(TURNS):
            hold_id = f"{name}-{turn}"
            await lab.grant(hold_id, tokens=9, frames=5, credits=4)
            await lab.report(hold_id, {"frames": 2, "credits": 1})
            await lab.settle(hold_id, {"tokens": 3, "frames": 4, "credits": 3})
            clock.advance(1)

    async def operate(lab: Tenant) -> None:
        nonlocal adjusted
        for turn in range(TURNS):
            for limit_id in ("tpm", "q"):
                done = Act(Deed.RESET, "ops", "why", limit_id, f"reset/{limit_id}-{turn}")
                reset = Reset(form(lab, limit_id), lab.account.version, every=False)
                answer = await lab.engine.hands.reset(lab.ref, reset, done, b"m", WITHIN_S)
                assert not isinstance(answer, Outdated)
                assert answer.before >= 0
            for limit_id, units in (("q", -STEP), ("credits", STEP if turn % 2 else -STEP)):
                done = Act(Deed.ADJUST, "ops", "why", limit_id, f"adjust/{limit_id}-{turn}")
                change = Adjustment(form(lab, limit_id), lab.account.version, units, sets=False)
                moved = await lab.engine.hands.adjust(lab.ref, change, done, b"m", WITHIN_S)
                assert not isinstance(moved, Outdated)
                assert moved.after >= 0
                adjusted += moved.after - moved.before if limit_id == "credits" else 0

    await asyncio.gather(operate(labs[-1]), *(call(lab, f"{at}") for at, lab in enumerate(labs[:-1])))

    assert broken_rules(snapshot(store)) == []
    figures = await labs[0].figures()
    assert adjusted == 0
    assert figures["credits"].cap == 10**6 - CALLERS * TURNS * 3
    assert {name: figures[name].held for name in ("jobs", "q", "credits")} == {"jobs": 0, "q": 0, "credits": 0}
    assert figures["tpm"].used <= CALLERS * TURNS * 3
    lines, _ = await labs[0].engine.hands.acts(labs[0].ref, "", 1000, WITHIN_S)
    assert len(lines) == 4 * TURNS
