"""What items cost: parts of a block in proportion, rounded up once per item, exact."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidRequestError
from server.domain.operation import Item
from server.domain.policy import Product
from server.domain.pricing import price, total
from server.domain.units import MAX_AMOUNT, rounded_up, whole_seconds
from tests.policies_for_tests import policy

FILM: Final = Product("film", block={"frames": 240, "tokens": 1000}, charge={"credits": 5, "requests": 1})
LAB: Final = policy(products=[FILM])


@pytest.mark.parametrize(
    ("frames", "credit"), [(0, 0), (1, 1), (48, 1), (49, 2), (240, 5), (241, 6), (480, 10), (2400, 50)]
)
def test_a_part_of_a_block_is_charged_in_proportion_and_rounded_up(frames: int, credit: int) -> None:
    assert price(Item("a", "film", {"frames": frames}), LAB)["credits"] == credit


def test_any_meter_of_the_block_may_measure_the_item() -> None:
    assert price(Item("a", "film", {"tokens": 2000}), LAB) == {"credits": 10, "requests": 2}


def test_a_reused_item_is_free() -> None:
    item = Item("a", "film", {"frames": 240}, reused=True)

    assert price(item, LAB) == {}
    assert total({}, [item], LAB) == {"frames": 240}


def test_each_item_is_rounded_by_itself() -> None:
    items = [Item(str(n), "film", {"frames": 1}) for n in range(10)]

    assert total({}, items, LAB) == {"frames": 10, "credits": 10, "requests": 10}


def test_a_sum_beyond_what_is_exact_is_invalid() -> None:
    items = [Item("a", "film", {"frames": 1}), Item("b", "film", {"tokens": MAX_AMOUNT})]

    with pytest.raises(InvalidRequestError, match="frames"):
        total({"frames": MAX_AMOUNT}, items[:1], LAB)
    assert total({"frames": MAX_AMOUNT - 1}, items[:1], LAB)["frames"] == MAX_AMOUNT


@given(st.integers(0, MAX_AMOUNT), st.integers(1, 10**6))
def test_rounding_up_is_the_smallest_integer_not_below(numerator: int, denominator: int) -> None:
    result = rounded_up(numerator, denominator)

    assert (result - 1) * denominator < numerator <= result * denominator


@pytest.mark.parametrize(("duration_ms", "seconds"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)])
def test_whole_seconds_never_promise_too_early(duration_ms: int, seconds: int) -> None:
    assert whole_seconds(duration_ms) == seconds
