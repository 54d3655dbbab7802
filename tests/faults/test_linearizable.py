"""Histories of concurrent calls for one tenant could have been made one after the other, given-up calls included."""

import asyncio
import itertools
from collections.abc import Hashable
from random import Random
from typing import Any, Final

import pytest

from server.domain.errors import HoldNotFoundError, HoldStateError
from server.domain.hold import State
from server.domain.operation import TenantRef
from server.engine.base import Granted, Refused, Replayed
from server.engine.redis_engine import RedisEngine
from tests.conftest import REAL_STORES, Connect, Figure
from tests.faults.linearizable import UNKNOWN, Made, is_linearizable
from tests.faults.sizes import size
from tests.policies_for_tests import balance, policy, slots
from tests.tenants import Clock, Tenant

LAB: Final = policy(slots("jobs", 3), balance("credits"))
FUNDS: Final = 20
CALLERS: Final = 5
CALLS_EACH: Final = 12
HOLDS: Final = 6


def apply(  # noqa: PLR0911  # an answer each
    state: Any,  # noqa: ANN401  # what is available, and the holds by id
    what: tuple[Any, ...],
) -> tuple[Hashable, Any]:
    """A balance and three places. A hold is what was reserved, or what was charged when it was settled, or released."""
    available, holds = state
    known = dict(holds)
    match what:
        case ("reserve", hold_id, units):
            if hold_id in known:
                return state, "replayed"
            open_now = sum(kind == "open" for kind, _ in known.values())
            if units > available or open_now >= 3:
                return state, "refused"
            known[hold_id] = ("open", units)
            available -= units
            answer: Any = "granted"
        case ("settle", hold_id, used):
            kind, units = known.get(hold_id, ("none", 0))
            if kind == "settled":
                return state, ("settled", False) if units == used else "unfit"
            if kind != "open":
                return state, "unknown" if kind == "none" else "unfit"
            known[hold_id] = ("settled", used)
            available += units - min(used, units + available)  # what nobody has is delivered, and not collected
            answer = ("settled", True)
        case ("release", hold_id):
            kind, units = known.get(hold_id, ("none", 0))
            if kind != "open":
                return state, "unknown" if kind == "none" else "ended"
            known[hold_id] = ("released", 0)
            available += units
            answer = "released"
        case _:
            held = sum(units for kind, units in known.values() if kind == "open")
            return state, (available + held, held)
    return (available, tuple(sorted(known.items()))), answer


async def ask(tenant: Tenant, what: tuple[Any, ...]) -> Any:  # noqa: ANN401  # in the model's words
    try:
        match what:
            case ("reserve", hold_id, units):
                answer = await tenant.reserve(tenant.plan(hold_id, credits=units))
                return {Granted: "granted", Refused: "refused", Replayed: "replayed"}[type(answer)]
            case ("settle", hold_id, used):
                return "settled", (await tenant.settle(hold_id, {"credits": used})).applied
            case ("release", hold_id):
                outcome = await tenant.release(hold_id)
                return "released" if outcome.applied and outcome.state is State.RELEASED else "ended"
        look = (await tenant.figures())["credits"]
    except HoldNotFoundError:
        return "unknown"
    except HoldStateError:
        return "unfit"
    return look.cap, look.held


def some_call(random: Random) -> tuple[Any, ...]:
    hold_id = f"h{random.randrange(HOLDS)}"
    form = random.random()
    if form < 0.45:
        return "reserve", hold_id, random.randint(1, 9)
    if form < 0.7:
        return "settle", hold_id, random.choice((1, 2))
    return ("release", hold_id) if form < 0.85 else ("look",)


async def record(tenants: list[Tenant], seed: str) -> list[Made]:
    """One history: several callers on connections of their own, some of whom give up waiting."""
    instants, history = itertools.count(), list[Made]()

    async def caller(number: int) -> None:
        random = Random(f"{seed}-{number}")  # noqa: S311  # the same calls in every run
        for _ in range(CALLS_EACH):
            what, sent = some_call(random), next(instants)
            call = asyncio.ensure_future(ask(tenants[number % len(tenants)], what))
            if random.random() < 0.1:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                call.cancel()
            await asyncio.wait([call])
            answer = UNKNOWN if call.cancelled() else call.result()
            history.append(Made(what, answer, sent, 10**9 if answer is UNKNOWN else next(instants)))

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return history


@pytest.mark.parametrize("store_name", REAL_STORES[:2])
async def test_every_history_of_a_tenant_is_linearizable(
    store_name: str, request: pytest.FixtureRequest, connect: Connect, figure: Figure
) -> None:
    store = request.getfixturevalue(store_name)
    store.command("FLUSHALL")
    clock = Clock()
    engines = [RedisEngine(await connect(store), clock=clock) for _ in range(4)]
    histories = size(10, 30, 200)
    calls = unknown = 0
    for number in range(histories):
        tenants = [Tenant(engine, clock, LAB, TenantRef("lab", f"t{number}")) for engine in engines]
        await tenants[0].open(credits=FUNDS)
        for tenant in tenants:
            tenant.account = tenants[0].account
        history = await record(tenants, str(number))
        assert is_linearizable(history, (FUNDS, ()), apply), history
        calls += len(history)
        unknown += sum(made.answer is UNKNOWN for made in history)
    assert unknown
    figure(f"{histories} histories of {calls:,} calls, {unknown} of unknown outcome, 0 violations")


def test_a_history_that_nothing_explains_is_found() -> None:
    once = [Made(("reserve", "a", 9), "granted", 0, 3), Made(("reserve", "b", 9), "granted", 1, 2)]
    sold_twice = [*once, Made(("reserve", "c", 9), "granted", 4, 5)]
    stale = [Made(("reserve", "a", 9), "granted", 0, 1), Made(("look",), (20, 0), 2, 3)]

    assert is_linearizable(once, (FUNDS, ()), apply)
    assert not is_linearizable(sold_twice, (FUNDS, ()), apply)
    assert not is_linearizable(stale, (FUNDS, ()), apply)
    assert is_linearizable([stale[0]._replace(answer=UNKNOWN, answered=9), stale[1]], (FUNDS, ()), apply)
