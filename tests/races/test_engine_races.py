"""Many callers at once, over several connections, on real stores: one winner, and not one unit too many.

Each race is run often and each run is short; what the store interleaves differs from run to run.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Final

import pytest

from server.domain.errors import HoldgateError, HoldStateError
from server.domain.hold import State
from server.domain.operation import TenantRef
from server.domain.policy import Policy
from server.engine.base import Granted, HoldOutcome, Refused, Replayed
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import TERMS, balance, policy, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import Clock, Tenant

CONNECTIONS: Final = 4
RUNS: Final = 100

PURSE: Final = policy(balance("credits"))
LAB: Final = policy(window("tpm", 10_000, "tokens"), slots("jobs", 7), balance("credits"))


class Crowd:
    """Several server processes, as the store sees them: an engine each, on a connection of its own."""

    def __init__(self, engines: Sequence[RedisEngine], clock: Clock) -> None:
        self._engines = engines
        self.clock = clock

    def tenants(self, rules: Policy, name: str) -> list[Tenant]:
        """The same tenant, as each of the processes knows it."""
        return [Tenant(engine, self.clock, rules, TenantRef("lab", name)) for engine in self._engines]


@pytest.fixture
async def crowd(store: RunningStore, connect: Connect) -> AsyncIterator[Crowd]:
    clock = Clock()
    yield Crowd([RedisEngine(await connect(store), clock=clock) for _ in range(CONNECTIONS)], clock)
    assert broken_rules(snapshot(store)) == []


async def all_at_once(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Every answer; a typed error is one, too."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, HoldgateError):
            raise answer
    return answers


def granted(answers: Sequence[object]) -> int:
    return sum(isinstance(answer, Granted) for answer in answers)


async def open_for_all(tenants: Sequence[Tenant], credits: int = 0) -> None:  # noqa: A002  # the limit's name
    await tenants[0].open(credits=credits)
    for tenant in tenants:
        tenant.account = tenants[0].account


@pytest.mark.parametrize(("callers", "each", "funds", "fit"), [(10, 3, 3, 1), (50, 10, 175, 17), (50, 1, 0, 0)])
async def test_last_unit_admits_one(callers: int, each: int, funds: int, fit: int, crowd: Crowd) -> None:
    """Funds for k of n parallel asks: exactly k, in every run, and nothing is left over that would have fit."""
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")
        await open_for_all(tenants, credits=funds)

        answers = await all_at_once(
            [
                tenant.reserve(tenant.plan(f"h{number}", credits=each))
                for number in range(callers)
                for tenant in [tenants[number % CONNECTIONS]]
            ]
        )

        assert granted(answers) == fit
        figures = await tenants[0].figures()
        assert figures["credits"].held == fit * each
        assert funds - fit * each < each


async def test_parallel_tokens_stay_in_window(crowd: Crowd) -> None:
    rules = policy(window("tpm", 100, "tokens"))
    for run in range(RUNS):
        tenants = crowd.tenants(rules, f"t{run}")
        amounts = [7 + number % 5 for number in range(30)]

        answers = await all_at_once(
            [tenants[n % CONNECTIONS].reserve(tenants[0].plan(f"h{n}", tokens=a)) for n, a in enumerate(amounts)]
        )

        taken = sum(a for a, answer in zip(amounts, answers, strict=True) if isinstance(answer, Granted))
        assert taken == (await tenants[0].figures())["tpm"].used
        assert 100 - max(amounts) < taken <= 100


async def test_unknown_subject_limited_from_first_call(crowd: Crowd) -> None:
    """The first calls of a tenant that nobody has seen come together."""
    rules = policy(window("rpm", 3), slots("jobs", 5))
    for run in range(RUNS):
        tenants = crowd.tenants(rules, f"new{run}")

        answers = await all_at_once([tenants[n % CONNECTIONS].reserve(tenants[0].plan(f"h{n}")) for n in range(20)])

        assert granted(answers) == 3


async def test_parallel_same_id_one_effect(crowd: Crowd) -> None:
    """Twenty copies of one request: one grant, nineteen repeats of it, one hold."""
    for run in range(RUNS):
        tenants = crowd.tenants(LAB, f"t{run}")
        await open_for_all(tenants, credits=100)
        plan = tenants[0].plan("h", tokens=5, credits=10)

        answers = await all_at_once([tenants[n % CONNECTIONS].reserve(plan) for n in range(20)])

        assert granted(answers) == 1
        assert sum(isinstance(answer, Replayed) for answer in answers) == 19
        (first,) = (answer for answer in answers if isinstance(answer, Granted))
        for answer in answers:
            if isinstance(answer, Replayed):
                assert answer.looks == first.looks
                assert answer.hold.lease_ends_at_ms == first.lease_ends_at_ms
        assert [look.used for look in (await tenants[0].figures()).values()] == [5, 1, 10]


async def test_parallel_same_id_without_a_lease(crowd: Crowd) -> None:
    """Windows alone: no due entry stands between the copies, only the record itself."""
    rules = policy(window("rpm", 50))
    for run in range(RUNS):
        tenants = crowd.tenants(rules, f"t{run}")
        plan = tenants[0].plan("h")

        answers = await all_at_once([tenants[n % CONNECTIONS].reserve(plan) for n in range(20)])

        assert granted(answers) == 1
        assert (await tenants[0].figures())["rpm"].used == 1


async def test_same_id_other_payload_in_parallel_has_one_winner(crowd: Crowd) -> None:
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")
        await open_for_all(tenants, credits=1000)

        answers = await all_at_once(
            [tenants[n % CONNECTIONS].reserve(tenants[0].plan("h", credits=n + 1)) for n in range(20)]
        )

        (winner,) = (n + 1 for n, answer in enumerate(answers) if isinstance(answer, Granted))
        assert {a.hold.meters["credits"].reserved for a in answers if isinstance(a, Replayed)} == {winner}
        assert (await tenants[0].figures())["credits"].held == winner


async def test_expiry_races_settle(crowd: Crowd) -> None:
    """Settles, releases and the end of the lease at once: one of them ends the hold, the losers are told, and what
    was delivered is charged once or not at all.
    """
    winners: Counter[State] = Counter()
    for run in range(RUNS):
        tenants = crowd.tenants(LAB, f"t{run}")
        await open_for_all(tenants, credits=100)
        for number in range(5):
            await tenants[0].grant(f"h{number}", tokens=20, credits=10)
        ends_now = run % 2 == 0
        if ends_now:
            crowd.clock.advance(TERMS.lease_ms)

        calls = []
        for number in range(5):
            hold_id = f"h{number}"
            one, two, three, four = tenants
            contest = [
                one.settle(hold_id, {"tokens": 7, "credits": 6}),
                two.release(hold_id),
                three.settle(hold_id, {"tokens": 7, "credits": 6}),
                four.release(hold_id),
            ]
            calls += contest if (run + number) % 3 else contest[::-1]
        answers = await all_at_once(calls)

        charged = 0
        for number in range(5):
            of_hold = answers[4 * number : 4 * number + 4]
            state = (await tenants[0].hold(f"h{number}")).state
            winners[state] += 1
            applied = [a for a in of_hold if isinstance(a, HoldOutcome) and a.applied]
            losers = [a for a in of_hold if not (isinstance(a, HoldOutcome) and a.applied)]
            assert len(applied) == 1
            assert applied[0].state is state
            assert state in ({State.SETTLED_LATE} if ends_now else {State.SETTLED, State.RELEASED})
            assert all(isinstance(loser, HoldStateError | HoldOutcome) for loser in losers)
            charged += 0 if state is State.RELEASED else 6
        figures = await tenants[0].figures()
        assert (figures["credits"].cap, figures["credits"].held, figures["jobs"].used) == (100 - charged, 0, 0)
    assert len(winners) == 3


async def test_parallel_partial_settles(crowd: Crowd) -> None:
    """Reports arrive in any order and several at once: the highest counts, and no unit is charged twice."""
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")
        await open_for_all(tenants, credits=100)
        await tenants[0].grant("h", credits=40)

        totals = [(7 * n) % 31 for n in range(30)]
        await all_at_once([tenants[n % CONNECTIONS].report("h", {"credits": total}) for n, total in enumerate(totals)])

        assert (await tenants[0].figures())["credits"] == (70, 10, 10, -1, 0)
        await tenants[0].settle("h")
        assert (await tenants[0].figures())["credits"].cap == 70


async def test_parallel_raises_take_each_unit_once(crowd: Crowd) -> None:
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")
        await open_for_all(tenants, credits=100)
        await tenants[0].grant("h", credits=10)

        await all_at_once([tenants[n % CONNECTIONS].raise_to("h", credits=10 + 5 * n) for n in range(20)])

        held = (await tenants[0].hold("h")).meters["credits"].reserved
        assert held == (await tenants[0].figures())["credits"].held == 100


async def test_the_same_purchase_in_parallel_is_made_once(crowd: Crowd) -> None:
    """And of purchases with ids of their own, each."""
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")
        await open_for_all(tenants)

        await all_at_once([tenants[n % CONNECTIONS].top_up(f"purchase {n % 4}", credits=10) for n in range(20)])

        assert (await tenants[0].figures())["credits"].cap == 40


async def test_of_account_writes_at_one_version_one_is_made(crowd: Crowd) -> None:
    for run in range(RUNS):
        tenants = crowd.tenants(PURSE, f"t{run}")

        results = await asyncio.gather(*(tenant.open(credits=5) for tenant in tenants), return_exceptions=True)

        assert sum(result is None for result in results) == 1
        (winner,) = (t for t, result in zip(tenants, results, strict=True) if result is None)
        assert (await winner.figures())["credits"].cap == 5


async def test_a_crowded_pool_is_never_over_full(crowd: Crowd) -> None:
    """Grants, settles, releases and ends of leases in waves; in between, places taken are live leases."""
    tenants = crowd.tenants(LAB, "pool")
    await open_for_all(tenants, credits=10**6)
    live: set[str] = set()
    most = 0
    for wave in range(60):
        asks = [f"w{wave}h{n}" for n in range(12)]
        ends = sorted(live)[: wave % 5]
        calls: list[Awaitable[object]] = [
            tenants[n % CONNECTIONS].reserve(tenants[0].plan(i, credits=1)) for n, i in enumerate(asks)
        ]
        for n, hold_id in enumerate(ends):
            tenant = tenants[n % CONNECTIONS]
            calls.append(tenant.settle(hold_id) if n % 2 else tenant.release(hold_id))
        answers = await all_at_once(calls)
        live |= {i for i, answer in zip(asks, answers, strict=False) if isinstance(answer, Granted)}
        assert all(isinstance(answer, Granted | Refused) for answer in answers[: len(asks)])
        live -= set(ends)
        used = (await tenants[0].figures())["jobs"].used
        assert used == len(live) <= 7
        most = max(most, used)
        if wave % 13 == 12:
            crowd.clock.advance(TERMS.lease_ms)
            live.clear()

    assert most == 7
    crowd.clock.advance(TERMS.lease_ms)
    assert (await tenants[0].figures())["jobs"].used == 0
