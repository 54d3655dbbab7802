"""Queues in front of pools, on every engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account, Override
from server.domain.errors import HoldNotFoundError, HoldStateError
from server.domain.hold import State
from server.domain.limits.base import QueueLook
from server.domain.limits.slots import Queue
from server.domain.policy import Policy
from server.domain.queue import Ticket
from server.engine.base import AccountWrite, Granted, Queued, Refused, Replayed
from server.engine.queues import Claimed
from tests.policies_for_tests import HOUR_MS, TERMS, balance, only_for, policy, slots, values
from tests.tenants import WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

TICKET: Final = Ticket(30_000)
TYPICAL_MS: Final = 15_000
JOBS: Final = slots("jobs", 2, typical_ms=TYPICAL_MS, queue=Queue(times=3, ticket_ms=TICKET.lasts_ms))
LINE: Final = policy(JOBS, balance("credits"))

BOTH: Final = ("images~s", "videos~s")
SHARED: Final = policy(
    *(
        only_for(
            slots(
                name,
                {"free": 2, "pro": 3},
                typical_ms=TYPICAL_MS,
                queue=Queue(times=2, ticket_ms=TICKET.lasts_ms, joined={"pro": BOTH}),
            ),
            action,
        )
        for name, action in (("images", "work"), ("videos", "rest"))
    )
)


async def ask(lab: Tenant, hold_id: str, *, action: str = "work", credits_: int = 0) -> Granted | Queued | Refused:
    """A request that is new."""
    plan = lab.plan(hold_id, action=action, credits=credits_)
    answer = await lab.engine.reserve(plan, hold_id, WITHIN_S, TICKET)
    assert isinstance(answer, Granted | Queued | Refused), answer
    return answer


async def position(lab: Tenant, hold_id: str, *, action: str = "work", credits_: int = 0) -> int:
    """Asks again; 0 for one that has its place."""
    plan = lab.plan(hold_id, action=action, credits=credits_)
    again = await lab.engine.reserve(plan, hold_id, WITHIN_S, TICKET)
    assert isinstance(again, Replayed), again
    answer = await lab.engine.queues.ticket(plan, hold_id, TICKET, WITHIN_S)
    assert isinstance(answer, Queued | Claimed), answer
    return answer.position if isinstance(answer, Queued) else 0


async def state(lab: Tenant, hold_id: str) -> State:
    return (await lab.hold(hold_id)).state


async def full(tenant: Tenants, waiting: int = 0, rules: Policy = LINE) -> Tenant:
    """A tenant whose places `run-0` and `run-1` have, and for which `w-0`, `w-1`, … wait."""
    lab = tenant(rules)
    for number in range(2):
        assert isinstance(await ask(lab, f"run-{number}"), Granted)
    for number in range(waiting):
        answer = await ask(lab, f"w-{number}")
        assert isinstance(answer, Queued)
        assert answer.position == number + 1
    return lab


async def test_a_request_without_a_place_waits_and_the_figures_say_so(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)

    look = (await lab.figures())["jobs"]

    assert look == QueueLook(2, 2, 2, -1, 0, 2, 6)
    assert await state(lab, "w-0") is State.QUEUED


async def test_a_full_queue_refuses_with_the_usual_length_of_a_job(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=6)

    answer = await ask(lab, "late")

    assert isinstance(answer, Refused)
    assert answer.looks[0] == QueueLook(2, 2, 2, -1, TYPICAL_MS, 6, 6)
    with pytest.raises(HoldNotFoundError):
        await lab.settle("late")


@pytest.mark.parametrize("ending", ["settle", "release", "expire"])
async def test_whatever_frees_a_place_gives_it_to_the_first(ending: str, tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)
    if ending == "settle":
        await lab.settle("run-0")
    elif ending == "release":
        await lab.release("run-0")
    else:
        await lab.renew("run-1")
        for _ in range(5):
            lab.clock.advance(TERMS.lease_ms // 5)
            for waits in ("w-0", "w-1"):
                await position(lab, waits)
            if lab.clock() % 2:
                await lab.renew("run-1")

    assert await position(lab, "w-0") == 0
    assert await state(lab, "w-0") is State.ACTIVE


async def test_a_place_that_is_not_claimed_goes_to_the_next(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)
    await lab.release("run-0")
    assert await state(lab, "w-0") is State.PROMOTED
    lab.clock.advance(TICKET.lasts_ms - 1)
    assert await position(lab, "w-1") == 1

    lab.clock.advance(1)

    assert await position(lab, "w-1") == 0
    assert await state(lab, "w-0") is State.LEFT


async def test_the_lease_begins_with_the_turn_not_with_the_claim(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=1)
    lab.clock.advance(20_000)
    await lab.release("run-0")
    turn_ms = lab.clock()
    lab.clock.advance(10_000)

    assert await position(lab, "w-0") == 0

    hold = await lab.hold("w-0")
    assert hold.lease_ends_at_ms == turn_ms + TERMS.lease_ms
    assert hold.longest_ends_at_ms == turn_ms + TERMS.longest_ms


async def test_what_waits_holds_its_credits_and_gets_them_back_unless_it_runs(tenant: Tenants) -> None:
    lab = tenant(LINE)
    await lab.open(credits=10)
    for number in range(2):
        await ask(lab, f"run-{number}")
    for number in range(3):
        await ask(lab, f"w-{number}", credits_=3)
    assert (await lab.figures())["credits"].held == 9
    poor = await ask(lab, "poor", credits_=3)
    assert isinstance(poor, Refused)

    await lab.release("w-1")
    lab.clock.advance(TICKET.lasts_ms)

    assert (await lab.figures())["credits"].held == 0
    assert await state(lab, "w-1") is State.LEFT
    assert await state(lab, "w-0") is State.LEFT


async def test_a_ticket_that_is_asked_for_lasts_and_a_silent_one_lapses_at_its_instant(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)
    lab.clock.advance(TICKET.lasts_ms - 1)
    assert await position(lab, "w-1") == 2

    lab.clock.advance(1)

    assert await position(lab, "w-1") == 1
    assert await state(lab, "w-0") is State.LEFT


async def test_whoever_takes_a_ticket_over_for_a_shorter_time_lapses_as_soon(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=1)
    brief = Ticket(5000, "ab.1")
    assert isinstance(await lab.engine.queues.ticket(lab.plan("w-0"), "w-0", brief, WITHIN_S), Queued)
    lab.clock.advance(brief.lasts_ms)
    await lab.engine.sweep()
    assert await state(lab, "w-0") is State.LEFT


@pytest.mark.parametrize("waits", [State.QUEUED, State.PROMOTED, State.LEFT])
async def test_what_does_not_run_cannot_be_settled_or_extended(waits: State, tenant: Tenants) -> None:
    lab = await full(tenant, waiting=1)
    if waits is State.PROMOTED:
        await lab.release("run-0")
    if waits is State.LEFT:
        await lab.release("w-0")
    assert await state(lab, "w-0") is waits
    before = await lab.figures()

    for refused in (lab.settle("w-0"), lab.renew("w-0")):
        with pytest.raises(HoldStateError):
            await refused

    assert await lab.figures() == before


async def test_a_released_place_in_the_queue_is_given_up_once(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)

    first, second = await lab.release("w-0"), await lab.release("w-0")

    assert (first.state, first.applied) == (State.LEFT, True)
    assert (second.state, second.applied) == (State.LEFT, False)
    assert await position(lab, "w-1") == 1


async def test_a_call_gives_up_only_the_place_that_is_still_its_own(tenant: Tenants) -> None:
    lab = await full(tenant)
    plan = lab.plan("w")
    await lab.engine.reserve(plan, "w", WITHIN_S, Ticket(5000, "one.1"))
    await lab.engine.queues.ticket(plan, "w", Ticket(5000, "two.1"), WITHIN_S)

    await lab.engine.queues.leave(lab.ref, "w", "one.1", WITHIN_S)
    assert await state(lab, "w") is State.QUEUED
    await lab.engine.queues.leave(lab.ref, "w", "two.1", WITHIN_S)

    assert await state(lab, "w") is State.LEFT


async def test_open_calls_are_renewed_together_and_told_who_waits_no_more(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=2)
    await lab.release("run-0")
    lab.clock.advance(10_000)

    renewed = await lab.engine.queues.renew(lab.ref, [JOBS.cell], ["w-0", "w-1", "nobody"], 30_000, WITHIN_S)

    assert renewed.gone == ("w-0", "nobody")
    assert await position(lab, "w-0") == 0
    lab.clock.advance(29_999)
    assert await state(lab, "w-1") is State.QUEUED
    assert await position(lab, "w-1") == 1


async def test_a_purchase_of_more_places_gives_them_at_once(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=4)
    account = Account(plan="free", overrides=(Override("jobs", 5),), version=1)
    await lab.write(AccountWrite(account=account, expected_version=0))
    lab.account = account

    assert [await state(lab, f"w-{number}") for number in range(4)] == [State.PROMOTED] * 3 + [State.QUEUED]


async def test_a_policy_with_more_places_gives_them_to_who_waits_without_a_request(tenant: Tenants) -> None:
    """Those who came first, and only those for whom there are places now."""
    lab = await full(tenant, waiting=4)
    tenant(
        replace(LINE, limits=(replace(JOBS, values=values(4)), *LINE.limits[1:]))
    )  # what the engine asks from now on

    await lab.engine.queues.see_to(lab.ref, WITHIN_S, afresh=True)

    states = [await state(lab, f"w-{number}") for number in range(4)]
    assert states == [State.PROMOTED, State.PROMOTED, State.QUEUED, State.QUEUED]


async def test_fewer_places_stop_nobody_and_start_nobody(tenant: Tenants) -> None:
    lab = await full(tenant, waiting=1)
    account = Account(plan="free", overrides=(Override("jobs", 1),), version=1)
    await lab.write(AccountWrite(account=account, expected_version=0))
    lab.account = account
    await lab.release("run-0")
    assert await position(lab, "w-0") == 1

    await lab.release("run-1")

    assert await position(lab, "w-0") == 0


async def test_pools_that_share_places_share_the_order_of_arrival(tenant: Tenants) -> None:
    lab = tenant(SHARED)
    await lab.open(plan="pro")
    for number, action in enumerate(("work", "rest", "work")):
        assert isinstance(await ask(lab, f"run-{number}", action=action), Granted)
    for number, action in enumerate(("rest", "work", "rest")):
        answer = await ask(lab, f"w-{number}", action=action)
        assert isinstance(answer, Queued)
        assert answer.position == number + 1

    await lab.release("run-0")

    assert await position(lab, "w-0", action="rest") == 0
    assert await position(lab, "w-1") == 1
    assert await position(lab, "w-2", action="rest") == 2


async def test_when_pools_part_each_keeps_its_own_and_their_order(tenant: Tenants) -> None:
    lab = tenant(SHARED)
    await lab.open(plan="pro")
    for number in range(3):
        await ask(lab, f"run-{number}")
    for number, action in enumerate(("rest", "work", "rest", "rest")):
        await ask(lab, f"w-{number}", action=action)

    await lab.open(plan="free")

    assert await position(lab, "w-1") == 1
    assert [await position(lab, f"w-{number}", action="rest") for number in (0, 2, 3)] == [0, 0, 1]


async def test_more_turns_than_one_step_makes_are_all_made(tenant: Tenants) -> None:
    queue = Queue(times=50, ticket_ms=HOUR_MS)
    lab = tenant(policy(slots("jobs", {"free": 1, "pro": 60}, typical_ms=TYPICAL_MS, queue=queue)))
    await lab.open(plan="free")
    await ask(lab, "run")
    for number in range(45):
        await lab.engine.reserve(lab.plan(f"w-{number}"), f"w-{number}", WITHIN_S, Ticket(HOUR_MS))

    await lab.open(plan="pro")

    assert (await lab.figures())["jobs"].used == 46
