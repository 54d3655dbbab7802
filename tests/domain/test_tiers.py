"""The ladder of tiers, and what an override does to it."""

import pytest

from server.domain.account import Account, TierOverride
from server.domain.tiers import Tier, Tiers
from server.domain.units import FOREVER_MS

LADDER = Tiers(("t0", "t1", "t2"), (0, 5, 50))


def account(bought: int, tier: str = "", until_ms: int = FOREVER_MS) -> Account:
    override = TierOverride(tier, until_ms) if tier else None
    return Account(plan="", lifetime_purchased_usd_micros=bought, tier_override=override)


@pytest.mark.parametrize(("bought", "plan"), [(0, "t0"), (4, "t0"), (5, "t1"), (49, "t1"), (50, "t2"), (10**9, "t2")])
def test_the_highest_step_that_purchases_reach(bought: int, plan: str) -> None:
    assert LADDER.of(account(bought), 0).plan == plan


def test_an_override_counts_where_it_is_higher() -> None:
    assert LADDER.of(account(50, "t1"), 0) == Tier("t2", 2, 0, FOREVER_MS)
    assert LADDER.of(account(5, "t2"), 0) == Tier("t2", 2, 0, FOREVER_MS)


def test_an_override_stops_at_exactly_its_expiry_and_says_so() -> None:
    lasting = account(5, "t2", until_ms=100)

    assert LADDER.of(lasting, 99) == Tier("t2", 2, 0, 100)
    assert LADDER.of(lasting, 100) == Tier("t1", 1, 100, FOREVER_MS)


def test_an_override_of_a_tier_that_the_policy_no_longer_has_is_none() -> None:
    assert LADDER.of(account(5, "gone"), 0).plan == "t1"
