"""Prepaid balances, on every engine: holds, charges, over-settlement, debt, what is not collected."""

from collections.abc import Callable
from typing import Final

import pytest

from server.domain.hold import Fraction, MeterTotals, State
from server.domain.limits.base import Look
from server.domain.policy import Policy
from tests.policies_for_tests import TERMS, balance, policy
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]

PURSE: Final = policy(balance("credits"))


async def purse(lab: Tenant) -> tuple[int, int]:
    """What is available, and what is held."""
    look = (await lab.figures())["credits"]
    assert look.used == look.held
    return look.cap - look.held, look.held


async def test_holds_count_against_balance(tenant: Tenants) -> None:
    """Six holds of 1,000 on 5,000: five."""
    lab = tenant(PURSE)
    await lab.open(credits=5000)
    for number in range(5):
        await lab.grant(f"h{number}", credits=1000)

    looks = await lab.refusal("h5", credits=1000)

    assert looks["credits"] == Look(cap=5000, used=5000, held=5000, reset_ms=-1, wait_ms=-1)


async def test_without_a_grant_nothing_is_there(tenant: Tenants) -> None:
    lab = tenant(PURSE)

    assert (await lab.refusal(credits=1))["credits"] == Look(0, 0, 0, -1, -1)


async def test_a_settle_charges_what_was_delivered_and_returns_the_rest(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    settled = await lab.settle("h", {"credits": 15})

    assert settled.meters == {"credits": MeterTotals(40, 15, 0)}
    assert await purse(lab) == (85, 0)


async def test_a_settle_that_says_nothing_charges_what_was_reserved(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    await lab.settle("h")

    assert await purse(lab) == (60, 0)


async def test_a_settle_that_says_nothing_charges_the_last_report(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)
    await lab.report("h", {"credits": 0})

    await lab.settle("h")

    assert await purse(lab) == (100, 0)


async def test_explicit_zero_is_zero(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    await lab.settle("h", {"credits": 0})

    assert await purse(lab) == (100, 0)


async def test_cumulative_reports_reordered(tenant: Tenants) -> None:
    """5, 3, 5: charged 5. A report charges at once what it adds."""
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    applied = [(await lab.report("h", {"credits": total})).applied for total in (5, 3, 5)]

    assert applied == [True, False, False]
    assert await purse(lab) == (60, 35)
    await lab.settle("h", {"credits": 5})
    assert await purse(lab) == (95, 0)


async def test_settle_ack_lost(tenant: Tenants) -> None:
    """The settle was committed and is sent again: no second debit, the same answer."""
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    first = await lab.settle("h", {"credits": 15})
    second = await lab.settle("h", {"credits": 15})

    assert (first.applied, second.applied) == (True, False)
    assert (first.state, first.meters) == (second.state, second.meters)
    assert await purse(lab) == (85, 0)


@pytest.mark.parametrize(
    ("reserved", "delivered", "parts", "charged"),
    [
        (40, 1, 2, 20),
        (41, 1, 2, 20),
        (100, 1, 3, 33),
        (100, 2, 3, 66),
        (100, 3, 3, 100),
        (100, 0, 3, 0),
        (3, 1, 1_000_000, 1),
        (0, 1, 2, 0),
        (99, 999_999, 1_000_000, 98),
    ],
)
async def test_a_delivered_share_is_rounded_down_but_never_to_nothing(
    reserved: int, delivered: int, parts: int, charged: int, tenant: Tenants
) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=reserved)

    settled = await lab.settle("h", Fraction(delivered, parts))

    assert settled.meters["credits"].reported == charged
    assert await purse(lab) == (100 - charged, 0)


async def test_a_share_is_of_each_meters_reserved_amount(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40, tokens=7)

    settled = await lab.settle("h", Fraction(1, 2))

    assert {name: totals.reported for name, totals in settled.meters.items()} == {"credits": 20, "tokens": 3}


async def test_gone_before_first_token(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)

    released = await lab.release("h")

    assert (released.state, released.applied) == (State.RELEASED, True)
    assert await purse(lab) == (100, 0)


async def test_gone_midway(tenant: Tenants) -> None:
    """A release after a report keeps what was reported; so does an expiry."""
    for ending in ("release", "expire"):
        lab = tenant(PURSE)
        lab.ref = lab.ref._replace(tenant=ending)
        await lab.open(credits=100)
        await lab.grant("h", credits=40)
        await lab.report("h", {"credits": 15})
        if ending == "release":
            await lab.release("h")
        else:
            lab.clock.advance(TERMS.lease_ms)

        assert await purse(lab) == (85, 0)


async def test_double_void(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)
    await lab.grant("neighbour", credits=30)

    for _ in range(2):
        await lab.release("h")

    assert await purse(lab) == (70, 30)


# more used than held


async def test_oversettle_leaves_other_holds(tenant: Tenants) -> None:
    """First the hold's own units, then what nobody holds; another hold's are safe."""
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("neighbour", credits=50)
    await lab.grant("h", credits=20)

    settled = await lab.settle("h", {"credits": 90})

    assert settled.meters == {"credits": MeterTotals(20, 90, 40)}
    assert await purse(lab) == (0, 50)
    await lab.settle("neighbour")
    assert await purse(lab) == (0, 0)


@pytest.mark.parametrize(("debt", "uncollected"), [(0, 40), (15, 25), (40, 0), (1000, 0)])
async def test_oversettle_each_policy(debt: int, uncollected: int, tenant: Tenants) -> None:
    """Beyond the funds: debt up to the bound, the rest is not collected."""
    lab = tenant(policy(balance("credits", debt=debt)))
    await lab.open(credits=50)
    await lab.grant("h", credits=20)

    settled = await lab.settle("h", {"credits": 90})

    assert settled.meters == {"credits": MeterTotals(20, 90, uncollected)}
    assert await purse(lab) == (0, 0)


async def test_what_comes_in_pays_back_what_is_owed(tenant: Tenants) -> None:
    """The account was 40 below zero: of the next 100 units 60 can be held, and it may go as far below again."""
    lab = tenant(policy(balance("credits", debt=40)))
    await lab.open(credits=50)
    await lab.grant("h", credits=20)
    await lab.settle("h", {"credits": 90})

    await lab.open(credits=25)
    assert await purse(lab) == (0, 0)
    await lab.open(credits=75)

    assert await purse(lab) == (60, 0)
    await lab.grant("next", credits=60)
    assert (await lab.settle("next", {"credits": 110})).meters["credits"].uncollected == 10


async def test_debt_is_bounded_over_several_holds(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits", debt=30)))
    await lab.open(credits=40)
    await lab.grant("a", credits=20)
    await lab.grant("b", credits=20)

    first = await lab.settle("a", {"credits": 40})
    second = await lab.settle("b", {"credits": 40})

    assert [outcome.meters["credits"].uncollected for outcome in (first, second)] == [0, 10]


async def test_a_hold_keeps_the_debt_bound_that_it_was_made_with(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits", debt=30)))
    await lab.open(credits=20)
    await lab.grant("h", credits=20)
    lab.policy = PURSE

    settled = await lab.settle("h", {"credits": 60})

    assert settled.meters["credits"].uncollected == 10


async def test_a_report_beyond_the_hold_is_collected_at_once(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=20)

    await lab.report("h", {"credits": 70})
    assert await purse(lab) == (30, 0)
    await lab.report("h", {"credits": 130})
    settled = await lab.settle("h", {"credits": 131})

    assert settled.meters == {"credits": MeterTotals(20, 131, 31)}
    assert await purse(lab) == (0, 0)


async def test_settle_never_loses_usage(tenant: Tenants) -> None:
    """Delivered is charged plus uncollected, to the unit."""
    lab = tenant(policy(balance("credits", debt=5)))
    await lab.open(credits=60)
    for hold_id in ("a", "b", "c"):
        await lab.grant(hold_id, credits=10)

    uncollected = [
        (await lab.settle(hold_id, {"credits": total})).meters["credits"].uncollected
        for hold_id, total in (("a", 10), ("b", 35), ("c", 80))
    ]

    assert uncollected == [0, 0, 60]
    assert await purse(lab) == (0, 0)


# late


async def test_late_settle_charged_once(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)
    lab.clock.advance(TERMS.lease_ms)
    assert await purse(lab) == (100, 0)

    first = await lab.settle("h", {"credits": 30})
    second = await lab.settle("h", {"credits": 30})

    assert (first.state, first.applied) == (State.SETTLED_LATE, True)
    assert (second.state, second.applied, second.meters) == (State.SETTLED_LATE, False, first.meters)
    assert await purse(lab) == (70, 0)


async def test_a_late_settle_takes_only_what_nobody_holds(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("late", credits=40)
    lab.clock.advance(TERMS.lease_ms)
    await lab.grant("neighbour", credits=90)

    settled = await lab.settle("late", {"credits": 30})

    assert settled.meters == {"credits": MeterTotals(40, 30, 20)}
    assert await purse(lab) == (0, 90)


async def test_a_late_report_is_charged_and_leaves_the_hold_open_for_its_final(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)
    await lab.report("h", {"credits": 10})
    lab.clock.advance(TERMS.lease_ms)

    reported = await lab.report("h", {"credits": 25})
    assert (reported.state, reported.applied, await purse(lab)) == (State.EXPIRED, True, (75, 0))
    settled = await lab.settle("h", {"credits": 26})

    assert settled.state is State.SETTLED_LATE
    assert await purse(lab) == (74, 0)


async def test_failed_cleanup_not_summed(tenant: Tenants) -> None:
    """Reports, an expiry and repeated settles on the way: charged is the final total, never a sum of them."""
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h", credits=40)
    for total in (10, 20, 20):
        await lab.report("h", {"credits": total})
    lab.clock.advance(TERMS.lease_ms)
    for _ in range(3):
        await lab.settle("h", {"credits": 33})

    assert await purse(lab) == (67, 0)


async def test_two_balances_of_one_meter_are_both_charged(tenant: Tenants) -> None:
    lab = tenant(policy(balance("wallet"), balance("budget")))
    await lab.open(wallet=100, budget=50)
    await lab.grant("h", credits=40)
    await lab.settle("h", {"credits": 45})

    figures = await lab.figures()
    assert (figures["wallet"].cap, figures["budget"].cap) == (55, 5)
