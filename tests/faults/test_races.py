"""Settle, release and the end of the lease at once, on real stores: one of them ends the hold, the others are told."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any, Final

from server.domain.errors import HoldStateError
from server.domain.hold import State
from server.domain.operation import TenantRef
from server.engine.base import HoldOutcome
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect, Figure
from tests.faults.sizes import size
from tests.policies_for_tests import TERMS, balance, policy, slots
from tests.store_state import broken_rules, leaks, snapshot
from tests.stores import RunningStore
from tests.tenants import START_MS, WITHIN_S, Clock, Tenant

LAB: Final = policy(slots("jobs", 10**6), balance("credits"))
AT_ONCE: Final = 50
USED: Final = 6
FUNDS: Final = 10**9
REF: Final = TenantRef("lab", "acme")
MOST_TURNS: Final = (30, 300)
"""In every other race most calls come so late that the lease's end, which takes two answers, is ahead of many."""


async def late(random: Random, call: Coroutine[Any, Any, object], most_turns: int) -> object:
    """Makes a call a few turns of the event loop later, in which answers to others arrive."""
    for _ in range(random.randrange(most_turns)):
        await asyncio.sleep(0)
    return await call


async def test_one_of_settle_release_and_expiry_wins(valkey: RunningStore, connect: Connect, figure: Figure) -> None:
    """Three servers; the third one's clock is past every lease, as that of a store is that was asked a moment later."""
    valkey.command("FLUSHALL")
    clocks = [Clock(), Clock(), Clock(START_MS + TERMS.lease_ms)]
    tenants = [Tenant(RedisEngine(await connect(valkey), clock=clock), clock, LAB, REF) for clock in clocks]
    await tenants[0].open(credits=FUNDS)
    winners: Counter[State] = Counter()
    charged, random = 0, Random(1)  # noqa: S311  # the same order of sending in every run
    for race in range(size(500, 2_000, 10_000) // AT_ONCE):
        names = [f"r{race}h{n}" for n in range(AT_ONCE)]
        await asyncio.gather(*(tenants[0].grant(name, credits=10) for name in names))
        most = MOST_TURNS[race % 2]
        audit = tenants[2].engine.audit(REF, (), WITHIN_S)  # ends what is overdue before it looks
        calls = [late(random, audit, MOST_TURNS[0])]
        for name in names:
            settle, release = tenants[0].settle(name, {"credits": USED}), tenants[1].release(name)
            calls += [late(random, settle, most), late(random, release, most)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, HoldStateError):
                raise answer
        applied = sum(isinstance(answer, HoldOutcome) and answer.applied for answer in answers)
        ended = Counter([(await tenants[0].hold(name)).state for name in names])
        assert State.ACTIVE not in ended
        # A late settle is applied, too, after the expiry that won.
        assert applied == ended[State.SETTLED] + ended[State.RELEASED] + ended[State.SETTLED_LATE]
        assert sum(ended.values()) == AT_ONCE
        charged += USED * (ended[State.SETTLED] + ended[State.SETTLED_LATE])
        winners += ended
    figures = await tenants[0].figures()
    assert (figures["credits"].cap, figures["credits"].held, figures["jobs"].used) == (FUNDS - charged, 0, 0)
    await tenants[2].engine.sweep()
    state = snapshot(valkey)
    assert broken_rules(state) == leaks(state) == []
    assert set(winners) == {State.SETTLED, State.RELEASED, State.SETTLED_LATE}
    won = {"settle": State.SETTLED, "release": State.RELEASED, "expiry": State.SETTLED_LATE}
    told = ", ".join(f"{name} {winners[state]:,}" for name, state in won.items())
    figure(f"{sum(winners.values()):,} races, one winner each ({told}), charged to the unit")
