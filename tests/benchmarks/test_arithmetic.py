"""Medians, ratios, percentiles and verdicts."""

import pytest

from benchmarks.budgets import BUDGETS, Budget
from benchmarks.medians import Slice, compared, percentile
from benchmarks.memory import Bytes


def test_a_ratio_is_the_median_of_the_turns_ratios_and_not_the_ratio_of_medians() -> None:
    found = compared([Slice(10, 100), Slice(300, 1000), Slice(20, 50)])

    assert (found.subject, found.yardstick) == (20, 100)
    assert found.ratio == pytest.approx(0.3)


def test_a_turn_on_a_machine_that_was_slow_for_both_changes_no_ratio() -> None:
    calm = [Slice(10, 100), Slice(10, 100)]

    assert compared([*calm, Slice(90, 900)]).ratio == compared(calm).ratio


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 5), (90, 9), (99, 10), (100, 10)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(
    ("value", "bound", "least", "said"),
    [
        (8, 8, False, "kept"),
        (10, 8, False, "missed by 25%"),
        (1.7, 1.7, True, "kept"),
        (0.85, 1.7, True, "missed by 50%"),
        (0, 0, False, "kept"),
        (3, 0, False, "missed by 3"),
    ],
)
def test_a_verdict_says_by_how_much_a_budget_is_missed(value: float, bound: float, least: bool, said: str) -> None:  # noqa: FBT001  # a column of the table
    assert Budget("figure", "what", bound, "", "none", least=least).verdict(value) == said


def test_no_figure_has_two_budgets() -> None:
    assert len({budget.figure for budget in BUDGETS}) == len(BUDGETS)


def test_of_two_measures_of_memory_the_larger_counts() -> None:
    assert Bytes(of_keys=99.6, grown=80).larger == 100
    assert Bytes(of_keys=80, grown=101.2).larger == 101
