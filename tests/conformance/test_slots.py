"""Pools with leases, on every engine."""

from collections.abc import Callable
from typing import Final

import pytest

from server.domain.policy import HoldTerms, Policy
from tests.policies_for_tests import HOUR_MS, TERMS, policy, slots
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]

POOL: Final = policy(slots("jobs", 2))


async def taken(lab: Tenant) -> int:
    return (await lab.figures())["jobs"].used


async def test_a_pool_admits_exactly_its_capacity(tenant: Tenants) -> None:
    lab = tenant(POOL)
    await lab.grant("a")
    await lab.grant("b")

    look = (await lab.refusal("c"))["jobs"]

    assert look == (2, 2, 2, -1, -1)


async def test_double_release_frees_one(tenant: Tenants) -> None:
    """A neighbour keeps its slot."""
    lab = tenant(POOL)
    await lab.grant("a")
    await lab.grant("b")

    first, second = await lab.release("a"), await lab.release("a")

    assert (first.applied, second.applied) == (True, False)
    assert await taken(lab) == 1


@pytest.mark.parametrize("ending", ["settle", "release", "expire"])
async def test_every_ending_frees_the_slot_once(ending: str, tenant: Tenants) -> None:
    lab = tenant(POOL)
    await lab.grant("a", tokens=5)
    lab.clock.advance(1000)
    await lab.grant("b", tokens=5)
    if ending == "settle":
        await lab.report("a", {"tokens": 1})
        assert await taken(lab) == 2
        await lab.settle("a", {"tokens": 2})
    elif ending == "release":
        await lab.release("a")
    else:
        lab.clock.advance(TERMS.lease_ms - 1000)
        await lab.settle("a", {"tokens": 2})

    assert await taken(lab) == 1


async def test_unreaped_expired_hold_ignored(tenant: Tenants) -> None:
    """Nothing sweeps, and the slot is free at the very instant at which the lease ends."""
    lab = tenant(POOL)
    await lab.grant("a")
    await lab.grant("b")

    lab.clock.advance(TERMS.lease_ms - 1)
    await lab.refusal("c")
    lab.clock.advance(1)

    await lab.grant("c")
    assert await taken(lab) == 1


async def test_index_ttl_covers_longest_hold(tenant: Tenants) -> None:
    """A hold of a day still counts after a day less a millisecond; nothing of it has a TTL (`must_leave_nothing`)."""
    day = HoldTerms(lease_ms=24 * HOUR_MS, longest_ms=24 * HOUR_MS)
    lab = tenant(policy(slots("jobs", 1), terms=day))
    await lab.grant("a")

    lab.clock.advance(24 * HOUR_MS - 1)

    await lab.refusal("b")


async def test_many_overdue_holds_are_given_back_before_anything_is_answered(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 170)))
    for number in range(170):
        await lab.grant(f"h{number}")
    lab.clock.advance(TERMS.lease_ms)

    granted = await lab.grant("next")

    assert granted.looks[0].used == 1


async def test_idle_account_reaped(tenant: Tenants) -> None:
    """No further traffic: the sweeper finds the tenant and gives everything back, once."""
    lab, other = tenant(POOL), tenant(POOL)
    other.ref = other.ref._replace(tenant="other")
    await lab.grant("a")
    await lab.grant("b")
    await other.grant("a")

    lab.clock.advance(TERMS.lease_ms - 1)
    assert await lab.engine.sweep() == 0
    lab.clock.advance(1)
    assert await lab.engine.sweep() == 3
    assert await lab.engine.sweep() == 0


async def test_key_ttl_never_decides(tenant: Tenants) -> None:
    """Renewing one hold keeps that one alone."""
    lab = tenant(POOL)
    await lab.grant("a")
    await lab.grant("b")
    lab.clock.advance(TERMS.lease_ms - 1)
    await lab.renew("a")
    lab.clock.advance(1)

    assert await taken(lab) == 1
    await lab.settle("a")
    assert await taken(lab) == 0


async def test_a_pool_may_count_amounts(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 10, "frames")))
    await lab.grant("a", frames=7)

    assert (await lab.refusal("b", frames=4))["jobs"] == (10, 7, 7, -1, -1)
    await lab.grant("b", frames=3)
    await lab.settle("a", {"frames": 1})

    assert await taken(lab) == 3


async def test_zero_then_positive_limit(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 0)))
    await lab.refusal("a")
    lab.policy = policy(slots("jobs", 5))

    await lab.grant("a")


async def test_a_step_back_of_the_clock_reclaims_nothing(tenant: Tenants) -> None:
    lab = tenant(POOL)
    await lab.grant("a")
    await lab.grant("b")

    lab.clock.advance(-HOUR_MS)

    await lab.refusal("c")
    await lab.release("a")
    await lab.grant("c")


async def test_a_lease_that_was_taken_earlier_in_time_is_still_seen_when_due(tenant: Tenants) -> None:
    """The earliest lease end is not the latest one written."""
    lab = tenant(POOL)
    lab.clock.advance(1000)
    await lab.grant("late")
    lab.clock.advance(-1000)
    await lab.grant("early")

    lab.clock.advance(TERMS.lease_ms)

    assert await taken(lab) == 1
