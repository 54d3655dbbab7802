"""What a cycle will come to: the run rate, its silence, its confidence, and when an allowance ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.projection import Confidence, Method, Projection, projected, run_rate
from server.domain.units import MAX_AMOUNT

DAY_MS = 86_400_000
APRIL = (1_775_001_600_000, 1_777_593_600_000)
APRIL_MS = APRIL[1] - APRIL[0]

amounts = st.integers(0, MAX_AMOUNT)


def in_april(used: int, day: float, allowance: int = 100_000) -> Projection | None:
    return run_rate(used, allowance, APRIL, APRIL[0] + int(day * DAY_MS))


def test_a_third_of_the_cycle_stands_for_the_whole() -> None:
    assert projected(40_000, 10 * DAY_MS, 30 * DAY_MS) == 120_000


def test_nothing_is_said_in_the_first_24_hours_and_something_from_then_on() -> None:
    assert projected(40_000, DAY_MS - 1, 30 * DAY_MS) is None
    assert projected(40_000, DAY_MS, 30 * DAY_MS) == 1_200_000


def test_nothing_is_said_of_a_cycle_that_has_not_begun() -> None:
    assert projected(1, -DAY_MS * 2, 30 * DAY_MS) is None


def test_the_estimate_is_rounded_down() -> None:
    assert projected(10, 7 * DAY_MS, 30 * DAY_MS) == 42  # 42.86


def test_an_estimate_is_never_above_what_an_amount_may_be() -> None:
    assert projected(MAX_AMOUNT, DAY_MS, 31 * DAY_MS) == MAX_AMOUNT


@given(used=amounts, elapsed_ms=st.integers(DAY_MS, APRIL_MS))
def test_an_estimate_is_the_exact_quotient_and_never_below_what_was_used(used: int, elapsed_ms: int) -> None:
    estimate = projected(used, elapsed_ms, APRIL_MS)
    assert estimate is not None
    assert used <= estimate
    if estimate < MAX_AMOUNT:
        assert estimate * elapsed_ms <= used * APRIL_MS < (estimate + 1) * elapsed_ms


@pytest.mark.parametrize(
    ("day", "confidence"),
    [
        (1, Confidence.LOW),
        (7.4, Confidence.LOW),
        (7.5, Confidence.MEDIUM),
        (15, Confidence.HIGH),
        (29, Confidence.HIGH),
    ],
)
def test_confidence_grows_with_the_part_of_the_cycle_that_was_seen(day: float, confidence: Confidence) -> None:
    assert in_april(1, day) == Projection(int(30 / day), Method.RUN_RATE, confidence)


def test_the_end_of_the_allowance_is_told_where_it_comes_before_that_of_the_cycle() -> None:
    found = in_april(40_000, 10)
    assert found == Projection(120_000, Method.RUN_RATE, Confidence.MEDIUM, APRIL[0] + 25 * DAY_MS)


@pytest.mark.parametrize(
    ("used", "allowance"),
    [(33_000, 100_000), (100_000, 100_000), (120_000, 100_000), (5, 0), (0, 0), (0, 100_000), (10**9, MAX_AMOUNT)],
)
def test_an_allowance_that_lasts_or_is_used_up_or_has_no_end_has_none_to_tell(used: int, allowance: int) -> None:
    found = in_april(used, 10, allowance)
    assert found is not None
    assert found.exhausted_at_ms is None


@given(used=amounts, allowance=amounts, elapsed_ms=st.integers(DAY_MS, APRIL_MS - 1))
def test_the_allowance_ends_at_the_first_instant_at_which_the_rate_has_reached_it(
    used: int, allowance: int, elapsed_ms: int
) -> None:
    found = run_rate(used, allowance, APRIL, APRIL[0] + elapsed_ms)
    assert found is not None
    if found.exhausted_at_ms is None:
        assert used >= allowance or allowance > found.used or allowance == MAX_AMOUNT
        return
    passed_ms = found.exhausted_at_ms - APRIL[0]
    assert elapsed_ms < passed_ms <= APRIL_MS
    assert used * passed_ms >= allowance * elapsed_ms
    assert used * (passed_ms - 1) < allowance * elapsed_ms
