"""The share of each limit that a process grants by itself: a bound whatever the order, and in a bounded memory."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.account import Account
from server.domain.limits.base import Limit
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan
from server.engine.local_allowance import PARTS, Allowance
from tests.policies_for_tests import MINUTE_MS, TERMS, policy, quota, slots, window

START_MS: Final = 7 * MINUTE_MS + 123
SHARE: Final = 0.1


def plan(*limits: Limit, tenant: str = "acme", hold_id: str = "", **amounts: int) -> Plan:
    operation = Operation(TenantRef("lab", tenant), "work", hold_id, amounts=amounts)
    return make_plan(policy(*limits), operation, Account(plan="free"), START_MS)


@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=MINUTE_MS // 3), st.integers(min_value=0, max_value=40)),
        min_size=1,
        max_size=60,
    )
)
def test_no_span_of_a_window_holds_more_than_its_share(requests: list[tuple[int, int]]) -> None:
    allowance = Allowance(SHARE)
    now_ms = START_MS
    granted: list[tuple[int, int]] = []
    for pause_ms, tokens in requests:
        now_ms += pause_ms
        if not allowance.take(plan(window("tpm", 1000, "tokens"), tokens=tokens), "", now_ms):
            granted.append((now_ms, tokens))
    for end_ms, _ in granted:
        assert sum(tokens for at_ms, tokens in granted if end_ms - MINUTE_MS < at_ms <= end_ms) <= 100


def test_what_left_the_window_is_granted_again() -> None:
    allowance = Allowance(SHARE)
    one = plan(window("rpm", 10))
    assert allowance.take(one, "", START_MS) == ""
    assert "share of limit 'rpm', 1, is used up" in allowance.take(one, "", START_MS + MINUTE_MS - 1)
    assert allowance.take(one, "", START_MS + MINUTE_MS + MINUTE_MS // PARTS) == ""


def test_of_several_limits_all_are_taken_from_or_none() -> None:
    allowance = Allowance(SHARE)
    wide, narrow = window("wide", 1000), window("narrow", 10, window_ms=2 * MINUTE_MS)
    for _ in range(5):
        allowance.take(plan(wide, narrow), "", START_MS)
    grants = [allowance.take(plan(wide), "", START_MS) == "" for _ in range(200)]
    assert sum(grants) == 99


def test_a_limit_that_allows_anything_allows_one_and_one_of_nothing_none() -> None:
    allowance = Allowance(0.001)
    assert [allowance.take(plan(window("rpm", 5)), "", START_MS) == "" for _ in range(2)] == [True, False]
    assert allowance.take(plan(window("none", 0)), "", START_MS)


def test_places_come_back_when_their_hold_ends_and_when_its_lease_does() -> None:
    allowance = Allowance(SHARE)
    one = plan(slots("jobs", 20))
    assert [allowance.take(one, f"h{n}", START_MS) == "" for n in range(3)] == [True, True, False]
    allowance.free(one, "h0")
    assert allowance.take(one, "h3", START_MS) == ""
    allowance.renew(one, "h3", START_MS + 10 * TERMS.lease_ms)
    past_leases_ms = START_MS + TERMS.lease_ms
    assert [allowance.take(one, f"h{n}", past_leases_ms) == "" for n in (4, 5)] == [True, False]


def test_an_open_quota_has_its_share_once_per_cycle() -> None:
    allowance = Allowance(SHARE)
    asked = plan(quota("monthly", 1000, "tokens"), tokens=60)
    assert [allowance.take(asked, "", START_MS + day * 86_400_000) == "" for day in range(3)] == [True, False, False]


@pytest.mark.parametrize("limit", [window("rpm", None), window("rpm", 0, shadow=True)], ids=["unlimited", "shadow"])
def test_what_blocks_nobody_is_not_counted(limit: Limit) -> None:
    assert Allowance(SHARE, most_cells=0).take(plan(limit), "", START_MS) == ""


def test_beyond_the_memory_that_it_may_use_nothing_is_granted_until_something_has_ended() -> None:
    """Forgetting what still counts would grant it anew."""
    allowance = Allowance(SHARE, most_cells=100)
    asked = [plan(window("rpm", 10), tenant=f"t{n}") for n in range(500)]
    assert sum(allowance.take(one, "", START_MS) == "" for one in asked) == 100
    assert "counts 100 windows" in allowance.take(asked[-1], "", START_MS + MINUTE_MS // 2)
    later_ms = START_MS + 2 * MINUTE_MS
    assert sum(allowance.take(one, "", later_ms) == "" for one in asked[400:]) == 100
