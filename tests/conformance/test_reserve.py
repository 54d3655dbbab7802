"""Admission, on every engine: all or nothing, replay before limits, room, cells, versions."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from server.domain.account import Override
from server.domain.errors import TooManyCellsError
from server.domain.hold import State
from server.domain.limits.base import Look
from server.domain.operation import differing_parts
from server.domain.policy import Policy
from server.engine.base import Granted, Replayed, Stale
from tests.conftest import MOST_CELLS
from tests.policies_for_tests import (
    MINUTE_MS,
    TERMS,
    balance,
    flag_gate,
    only_for,
    plan_gate,
    policy,
    slots,
    window,
)
from tests.tenants import START_MS, Tenant

Tenants = Callable[[Policy], Tenant]

LAB: Final = policy(
    window("rpm", 3),
    window("tpm", 1000, "tokens", scope=("project",)),
    slots("jobs", 2),
    balance("credits"),
)


async def test_a_grant_takes_from_every_limit_and_answers_the_figures_after_it(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)

    granted = await lab.grant("h", tokens=300, credits=10)

    assert granted == Granted(
        START_MS,
        (
            Look(cap=3, used=1, held=0, reset_ms=MINUTE_MS, wait_ms=0),
            Look(cap=1000, used=300, held=0, reset_ms=MINUTE_MS, wait_ms=0),
            Look(cap=2, used=1, held=1, reset_ms=-1, wait_ms=0),
            Look(cap=100, used=10, held=10, reset_ms=-1, wait_ms=0),
        ),
        START_MS + TERMS.lease_ms,
    )
    assert tuple((await lab.figures()).values()) == granted.looks


@pytest.mark.parametrize("blocker", LAB.limits, ids=lambda limit: limit.id)
async def test_denial_moves_nothing(blocker: object, tenant: Tenants) -> None:
    """Whichever of the limits refuses, the others are as before."""
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("first", tokens=300, credits=10)
    amounts: dict[str, Any] = {"tokens": 1, "credits": 1}
    if blocker is LAB.limits[0]:
        lab.policy = policy(window("rpm", 1), *LAB.limits[1:])
    if blocker is LAB.limits[1]:
        amounts["tokens"] = 701
    if blocker is LAB.limits[2]:
        lab.policy = policy(*LAB.limits[:2], slots("jobs", 1), LAB.limits[3])
    if blocker is LAB.limits[3]:
        amounts["credits"] = 91
    before = await lab.figures()

    looks = await lab.refusal("second", **amounts)

    assert [limit_id for limit_id, look in looks.items() if not look.fits] == [blocker.id]  # type: ignore[attr-defined]  # a limit
    assert await lab.figures() == before
    assert (await lab.find("second")).hold is None


async def test_all_blockers_named(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 1), window("tpm", 10, "tokens"), slots("jobs", 1), balance("credits")))
    await lab.grant("first", tokens=5)

    looks = await lab.refusal(tokens=6, credits=1)

    assert [look.wait_ms for look in looks.values()] == [MINUTE_MS, MINUTE_MS, -1, -1]


async def test_zero_never_blocks(tenant: Tenants) -> None:
    """An amount of 0 passes a limit that has nothing left, and even one that allows nothing."""
    lab = tenant(
        policy(window("tpm", 0, "tokens"), slots("jobs", 0, "frames"), balance("credits"), slots("spare", 1, "frames"))
    )

    granted = await lab.grant("h", tokens=0, frames=0, credits=0)

    assert [(look.used, look.wait_ms) for look in granted.looks] == [(0, 0)] * 4


async def test_room_must_be_there_and_is_not_taken(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits", room=40), slots("jobs", 3, room=2)))
    await lab.open(credits=40)

    granted = await lab.grant("h", credits=999)
    lab.policy = policy(balance("credits", room=41))
    looks = await lab.refusal()

    assert [look.used for look in granted.looks] == [0, 0]
    assert not looks["credits"].fits
    lab.policy = policy(balance("credits"))
    await lab.grant("all", credits=40)


async def test_a_limit_without_a_value_for_the_plan_does_not_apply(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", {"free": 1, "pro": None})))
    await lab.open(plan="pro")

    for _ in range(3):
        assert (await lab.grant()).looks == ()


async def test_unlimited_still_gives_hold(tenant: Tenants) -> None:
    """No limit matches what is asked for, yet the amounts can be settled."""
    lab = tenant(policy(only_for(window("rpm", 1), "rest")))

    granted = await lab.grant("h", tokens=50)
    renewed = await lab.renew("h")
    settled = await lab.settle("h", {"tokens": 20})

    assert granted.lease_ends_at_ms == renewed.hold.lease_ends_at_ms == START_MS + TERMS.lease_ms
    assert (settled.state, settled.meters["tokens"].reported) == (State.SETTLED, 20)


async def test_peek_never_charges(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", tokens=1, credits=1)
    before = await lab.figures()

    for _ in range(5):
        await lab.look(lab.plan(tokens=500, credits=50))

    assert await lab.figures() == before


# identity


async def test_retried_reserve_holds_once(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    plan = lab.plan("h", tokens=300, credits=10)
    granted = await lab.reserve(plan)
    before = await lab.figures()
    lab.clock.advance(1000)

    again = await lab.reserve(plan)

    assert isinstance(granted, Granted)
    assert isinstance(again, Replayed)
    assert again.hold.fingerprint == plan.operation.fingerprint()
    assert again.looks == granted.looks
    assert again.hold.meters["tokens"].reserved == 300
    assert again.hold.note == plan.note
    lab.clock.advance(-1000)
    assert await lab.figures() == before
    assert (await lab.settle("h")).applied


async def test_replay_precedes_limits(tenant: Tenants) -> None:
    """A duplicate that arrives when every limit is used up gets its grant, as does one at a closed gate."""
    lab = tenant(policy(window("rpm", 1), slots("jobs", 1), balance("credits"), flag_gate("suspended", expect=True)))
    open_gate = policy(*lab.policy.limits[:3])
    lab.policy, closed = open_gate, lab.policy
    await lab.open(credits=10)
    await lab.grant("h", credits=10)
    await lab.refusal("other", credits=10)

    assert isinstance(await lab.reserve(lab.plan("h", credits=10)), Replayed)
    lab.policy = closed
    assert isinstance(await lab.reserve(lab.plan("h", credits=10)), Replayed)


async def test_a_replay_precedes_the_account_version(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=10)
    plan = lab.plan("h", credits=10)
    await lab.reserve(plan)
    await lab.open(plan="pro")

    assert isinstance(await lab.reserve(plan), Replayed)


async def test_a_replay_precedes_the_bound_on_cells(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 2, scope=("project",))))
    await lab.grant("h", scope={"project": "first"})
    await lab.release("h")
    for number in range(MOST_CELLS):
        await lab.grant(f"h{number}", scope={"project": str(number)})

    assert isinstance(await lab.reserve(lab.plan("h", scope={"project": "first"})), Replayed)
    with pytest.raises(TooManyCellsError):
        await lab.grant("new", scope={"project": "first"})


@pytest.mark.parametrize("ending", ["settle", "release", "expire"])
async def test_replay_outlives_hold(ending: str, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", credits=10)
    if ending == "settle":
        await lab.settle("h", {"credits": 3})
    elif ending == "release":
        await lab.release("h")
    else:
        lab.clock.advance(TERMS.lease_ms)
    before = await lab.figures()

    again = await lab.reserve(lab.plan("h", credits=10))

    assert isinstance(again, Replayed)
    assert again.hold.state is {"settle": State.SETTLED, "release": State.RELEASED}.get(ending, State.EXPIRED)
    assert await lab.figures() == before


@pytest.mark.parametrize("since", ["a raise", "a settle", "a release", "the lease's end", "others"])
async def test_a_replay_tells_the_figures_of_its_grant_whatever_came_since(since: str, tenant: Tenants) -> None:
    lab = tenant(policy(*LAB.limits, window("shadow", 1, shadow=True)))
    await lab.open(credits=100)
    await lab.grant("first", tokens=10, credits=5)
    granted = await lab.grant("h", tokens=300, credits=10)
    if since == "a raise":
        assert (await lab.raise_to("h", tokens=400, credits=20)).raised
    elif since == "a settle":
        await lab.settle("h", {"tokens": 1})
    elif since == "a release":
        await lab.release("h")
    elif since == "the lease's end":
        lab.clock.advance(TERMS.lease_ms)
    else:
        await lab.release("first")
        await lab.open(plan="pro", credits=7)

    again = await lab.reserve(lab.plan("h", tokens=300, credits=10))

    assert isinstance(again, Replayed)
    assert again.looks == granted.looks


async def test_a_replay_tells_no_figures_that_mean_something_else_now(tenant: Tenants) -> None:
    """Another value of a limit, or another policy: the hold is told and no figures."""
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", credits=10)
    await lab.open(overrides=(Override("rpm", 9, START_MS + 100),))

    overridden = await lab.reserve(lab.plan("h", credits=10))
    lab.clock.advance(100)
    over = await lab.reserve(lab.plan("h", credits=10))
    lab.policy = policy(*LAB.limits[1:])
    other = await lab.reserve(lab.plan("h", credits=10))

    assert isinstance(overridden, Replayed)
    assert isinstance(over, Replayed)
    assert isinstance(other, Replayed)
    assert (overridden.looks, len(over.looks), other.looks) == ((), len(LAB.limits), ())


async def test_other_content_under_the_same_id_shows_what_differs(tenant: Tenants) -> None:
    """The engine answers what stands there; the fingerprints tell the two requests apart, part by part."""
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", credits=10)
    before = await lab.figures()
    asked = lab.plan("h", action="rest", scope={"project": "other"}, credits=11)

    known = await lab.reserve(asked)

    assert isinstance(known, Replayed)
    assert differing_parts(known.hold.fingerprint, asked.operation.fingerprint()) == ["action", "scope", "amounts"]
    assert await lab.figures() == before


async def test_id_scoped_to_tenant(tenant: Tenants) -> None:
    lab, other = tenant(LAB), tenant(LAB)
    other.ref = other.ref._replace(tenant="other")
    await lab.open(credits=10)
    await other.open(credits=10)

    await lab.grant("h", credits=10)
    await other.grant("h", credits=10)
    await lab.release("h")

    assert (await other.hold("h")).state is State.ACTIVE


async def test_a_refusal_is_not_remembered(tenant: Tenants) -> None:
    """Nothing was taken, so asking again under the same id is a new question."""
    lab = tenant(LAB)
    await lab.refusal("h", credits=10)
    await lab.open(credits=10)

    await lab.grant("h", credits=10)


async def test_without_an_id_nothing_is_remembered(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 3)))

    first, second = await lab.grant(), await lab.grant()

    assert [first.looks[0].used, second.looks[0].used] == [1, 2]
    assert first.lease_ends_at_ms == 0


async def test_windows_alone_leave_a_record_and_no_lease(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 3)))

    granted = await lab.grant("h")
    again = await lab.reserve(lab.plan("h"))

    assert granted.lease_ends_at_ms == 0
    assert isinstance(again, Replayed)
    assert again.hold.state is State.DONE
    assert (await lab.figures())["rpm"].used == 1


# what the account says


async def test_a_closed_gate_refuses_with_complete_figures(tenant: Tenants) -> None:
    lab = tenant(policy(plan_gate("model", {"free": (), "pro": ("big",)}), *LAB.limits))
    await lab.open(credits=100)

    looks = await lab.refusal("h", scope={"project": "p", "model": "big"}, tokens=5, credits=5)

    assert [look.wait_ms for look in looks.values()] == [0, 0, 0, 0]
    assert (await lab.figures())["jobs"].used == 0


async def test_a_plan_for_another_version_is_stale_and_gets_the_account(tenant: Tenants) -> None:
    lab = tenant(LAB)
    unopened = lab.plan("h", credits=1)
    await lab.open(credits=100)
    first = lab.plan("h", credits=1)
    old, lab.account = lab.account, lab.account
    await lab.open(plan="pro")

    for plan in (unopened, first):
        assert await lab.reserve(plan) == Stale(START_MS, lab.account)
        assert await lab.engine.look(plan, 1) == Stale(START_MS, lab.account)
    assert old.version == 1
    assert (await lab.figures())["credits"].used == 0


async def test_an_override_ends_at_exactly_its_time(tenant: Tenants) -> None:
    """One millisecond before, its value counts; at its end the plan is stale, and the usual value is back."""
    lab = tenant(policy(window("rpm", 1)))
    await lab.open(overrides=(Override("rpm", 5, START_MS + 100),))
    plan = lab.plan()
    lab.clock.advance(99)

    assert isinstance(await lab.reserve(plan), Granted)
    lab.clock.advance(1)
    assert await lab.reserve(plan) == Stale(START_MS + 100, lab.account)
    assert (await lab.refusal())["rpm"].cap == 1


async def test_a_plan_made_after_an_overrides_end_is_stale_before_it(tenant: Tenants) -> None:
    """The store's clock decides, also when the one who planned was ahead of it."""
    lab = tenant(policy(window("rpm", 1)))
    await lab.open(overrides=(Override("rpm", 5, START_MS + 100),))
    lab.clock.advance(100)
    plan = lab.plan()
    lab.clock.advance(-1)

    assert await lab.reserve(plan) == Stale(START_MS + 99, lab.account)


async def test_lowered_limit_drains(tenant: Tenants) -> None:
    """Below what is in use nobody new gets in and nobody is thrown out."""
    lab = tenant(policy(slots("jobs", 3)))
    for hold_id in ("a", "b", "c"):
        await lab.grant(hold_id)
    lab.policy = policy(slots("jobs", 1))

    await lab.refusal("d")
    await lab.release("a")
    await lab.release("b")
    await lab.refusal("d")
    await lab.release("c")

    await lab.grant("d")
