"""Integers up to 2^53 - 1, exact through every operation, on every engine."""

from collections.abc import Callable
from random import Random
from typing import Final

import pytest

from server.domain.hold import Fraction, MeterTotals
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT, MAX_FRACTION_PARTS
from tests.policies_for_tests import MINUTE_MS, balance, policy, slots, window
from tests.tenants import START_MS, Tenant

Tenants = Callable[[Policy], Tenant]

BIG: Final = policy(
    window("tpm", MAX_AMOUNT, "tokens"), slots("jobs", MAX_AMOUNT, "frames"), balance("credits", debt=MAX_AMOUNT)
)
AMOUNTS: Final = [10**8, 123_456_789_012_345, 10**9, 9_999_999_999_999, MAX_AMOUNT - 1, MAX_AMOUNT]


@pytest.mark.parametrize("amount", AMOUNTS)
async def test_large_amounts_are_exact_from_grant_to_settle(amount: int, tenant: Tenants) -> None:
    lab = tenant(BIG)
    await lab.open(credits=MAX_AMOUNT)

    granted = await lab.grant("h", tokens=amount, frames=amount, credits=amount)
    assert [look.used for look in granted.looks] == [amount] * 3
    assert [look.used for look in (await lab.figures()).values()] == [amount] * 3
    assert (await lab.hold("h")).meters["credits"] == MeterTotals(amount, None, 0)
    settled = await lab.settle("h", {"tokens": amount - 1, "frames": 0, "credits": amount - 1})

    assert settled.meters["credits"] == MeterTotals(amount, amount - 1, 0)
    figures = await lab.figures()
    assert [look.used for look in figures.values()] == [amount - 1, 0, 0]
    assert figures["credits"].cap == MAX_AMOUNT - amount + 1


async def test_the_last_unit_of_the_largest_limits_blocks(tenant: Tenants) -> None:
    lab = tenant(BIG)
    await lab.open(credits=MAX_AMOUNT)
    await lab.grant("h", tokens=MAX_AMOUNT - 1, frames=MAX_AMOUNT - 1, credits=MAX_AMOUNT - 1)

    looks = await lab.refusal(tokens=2, frames=2, credits=2)
    assert [look.wait_ms for look in looks.values()] == [MINUTE_MS, -1, -1]
    granted = await lab.grant("last", tokens=1, frames=1, credits=1)

    assert [look.used for look in granted.looks] == [MAX_AMOUNT] * 3


async def test_the_largest_request_against_a_full_limit_is_refused(tenant: Tenants) -> None:
    """The sum passes 2^53, and the comparison is right all the same."""
    lab = tenant(BIG)
    await lab.open(credits=MAX_AMOUNT)
    await lab.grant("h", tokens=MAX_AMOUNT, frames=MAX_AMOUNT, credits=MAX_AMOUNT)

    looks = await lab.refusal(tokens=MAX_AMOUNT, frames=MAX_AMOUNT, credits=MAX_AMOUNT)

    assert [look.wait_ms for look in looks.values()] == [MINUTE_MS, -1, -1]


@pytest.mark.parametrize("parts", [3, 7, 999_983, MAX_FRACTION_PARTS])
async def test_a_share_of_the_largest_amount_is_exact(parts: int, tenant: Tenants) -> None:
    """No product on the way passes 2^53."""
    lab = tenant(BIG)
    await lab.open(credits=MAX_AMOUNT)
    await lab.grant("h", credits=MAX_AMOUNT)

    settled = await lab.settle("h", Fraction(parts - 1, parts))

    assert settled.meters["credits"].reported == MAX_AMOUNT * (parts - 1) // parts


async def test_sums_exact(tenant: Tenants) -> None:
    """Many odd amounts: every figure is the exact integer sum."""
    lab = tenant(BIG)
    random = Random(53)  # noqa: S311  # amounts, not secrets
    await lab.open(credits=MAX_AMOUNT)
    reserved = [random.randrange(10**13) for _ in range(60)]
    for number, amount in enumerate(reserved):
        await lab.grant(f"h{number}", tokens=amount, credits=amount)
        lab.clock.advance(1)
    assert [look.used for look in (await lab.figures()).values()] == [sum(reserved), 60, sum(reserved)]

    used = [random.randrange(2 * 10**13) for _ in reserved]
    for number, amount in enumerate(used):
        await lab.settle(f"h{number}", {"tokens": amount, "credits": amount})

    figures = await lab.figures()
    assert figures["tpm"].used == sum(used)
    assert figures["credits"].cap == MAX_AMOUNT - sum(used)
    lab.clock.advance(START_MS + MINUTE_MS + 30 - lab.clock())
    assert (await lab.figures())["tpm"].used == sum(used[31:])


async def test_usage_beyond_everything_is_recorded_exactly(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits")))
    await lab.open(credits=10)
    await lab.grant("h", credits=10)

    settled = await lab.settle("h", {"credits": MAX_AMOUNT})

    assert settled.meters["credits"] == MeterTotals(10, MAX_AMOUNT, MAX_AMOUNT - 10)
