"""Settles the open questions after the load: the same operation, with the same id, until its outcome is known."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from quota.v1 import decision_pb2

from loadtest.callers import Caller, CallFailed
from loadtest.ledger import Hold, charged
from loadtest.plan import LoadPlan
from loadtest.player import Player, Unresolved
from loadtest.requests import release_of

MOST_S: Final = 30.0
"""How long the questions of one process are asked."""

_AT_ONCE: Final = 32
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


async def resolve(plan: LoadPlan, caller: Caller, player: Player) -> list[Unresolved]:
    """Asks again; a request that proves granted is released. Returns what stays unknown."""
    questions, player.unresolved = player.unresolved, []
    ends_s = monotonic() + MOST_S
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(question: Unresolved) -> bool:
        async with gate:
            if question.hold is None:
                return await _until_known(lambda: _give_back(plan, caller, player, question), ends_s)
            hold = question.hold
            return await _until_known(lambda: player.end(question.drawn, hold), ends_s)

    known = await asyncio.gather(*map(ask, questions))
    return [question for question, is_known in zip(questions, known, strict=True) if not is_known]


async def _until_known(operation: Callable[[], Awaitable[None]], ends_s: float) -> bool:
    """Whether the operation was answered, be it by an error that leaves no doubt."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await operation()
        except CallFailed as failure:
            if not failure.unknown:
                return True
        else:
            return True
        if monotonic() + pause_s > ends_s:
            return False
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _give_back(plan: LoadPlan, caller: Caller, player: Player, question: Unresolved) -> None:
    """Asks for the decision again, and gives back what it granted, now or the first time."""
    drawn = question.drawn
    asked_s = monotonic()
    decision = (await caller.reserve(drawn.request, plan.timeout_s)).decision
    if decision.outcome != decision_pb2.OUTCOME_GRANTED:
        return
    hold: Hold = player.ledger.granted(drawn.key, drawn.request, decision, asked_s, monotonic())
    if hold.leased:
        released = await caller.release(release_of(plan, hold), plan.timeout_s)
        charged(hold, None, released.meters)
