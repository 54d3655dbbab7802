"""What items cost: parts of a block in proportion, rounded up once per item, exact."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidRequestError
from server.domain.operation import Item, Operation, TenantRef
from server.domain.policy import Product
from server.domain.pricing import price, total
from server.domain.units import MAX_AMOUNT, rounded_up, whole_seconds
from tests.policies_for_tests import policy

FILM: Final = Product("film", block={"frames": 240, "tokens": 1000}, charge={"credits": 5, "requests": 1})
TIERED: Final = Product(
    "tiered", block={"frames": 10}, by="model", charges={"small": {"credits": 1}, "large": {"credits": 4, "tokens": 1}}
)
PER_ACTION: Final = Product("per-action", block={"frames": 10}, by="action", charges={"rest": {"credits": 2}})
LAB: Final = policy(products=[FILM, TIERED, PER_ACTION])


def asking(*items: Item, action: str = "work", scope: dict[str, str] | None = None, **amounts: int) -> Operation:
    return Operation(ref=TenantRef("lab", "acme"), action=action, scope=scope or {}, items=items, amounts=amounts)


def cost(item: Item, **scope: str) -> dict[str, int]:
    return price(item, asking(item, scope=scope), LAB)


@pytest.mark.parametrize(("frames", "credit"), [(1, 1), (48, 1), (49, 2), (240, 5), (241, 6), (480, 10), (2400, 50)])
def test_a_part_of_a_block_is_charged_in_proportion_and_rounded_up(frames: int, credit: int) -> None:
    assert cost(Item("a", "film", {"frames": frames}))["credits"] == credit


def test_any_meter_of_the_block_may_measure_the_item() -> None:
    assert cost(Item("a", "film", {"tokens": 2000})) == {"credits": 10, "requests": 2}


def test_a_reused_item_is_free() -> None:
    item = Item("a", "film", {"frames": 240}, reused=True)

    assert cost(item) == {}
    assert total(asking(item), LAB) == {"frames": 240}


def test_a_price_by_dimension_is_that_of_the_request() -> None:
    item = Item("a", "tiered", {"frames": 25})

    assert cost(item, model="small") == {"credits": 3}
    assert cost(item, model="large") == {"credits": 10, "tokens": 3}


def test_a_price_by_action_is_that_of_the_action() -> None:
    item = Item("a", "per-action", {"frames": 25})

    assert price(item, asking(item, action="rest"), LAB) == {"credits": 5}


def test_under_a_free_action_items_only_measure() -> None:
    item = Item("a", "film", {"frames": 240})
    free = replace(LAB, actions={"work": replace(LAB.actions["work"], free=True)})

    assert total(asking(item), free) == {"frames": 240}


@pytest.mark.parametrize(
    ("operation", "field", "words"),
    [
        (asking(Item("a", "tiered", {"frames": 1})), "scope[model]", "tiered has prices by model: large, small"),
        (asking(Item("a", "tiered", {"frames": 1}), scope={"model": "huge"}), "items[0].product", "model 'huge'"),
        (asking(Item("a", "per-action", {"frames": 1})), "items[0].product", "has no price for 'work'"),
        (asking(Item("a", "film", {"frames": 0})), "items[0].quantity[frames]", "at least 1"),
    ],
)
def test_what_has_no_price_or_no_size_is_an_error_and_never_free(operation: Operation, field: str, words: str) -> None:
    for items in (operation.items, tuple(replace(item, reused=True) for item in operation.items)):
        with pytest.raises(InvalidRequestError) as error:
            operation._replace(items=items).validate(LAB)

        (violation,) = error.value.violations
        assert violation.field == field
        assert words in violation.description


def test_a_priced_action_says_what_it_produces() -> None:
    priced = replace(LAB, actions={"work": replace(LAB.actions["work"], priced=True)})

    with pytest.raises(InvalidRequestError, match="items: is empty; work must name what it produces"):
        asking().validate(priced)
    asking(credits=0).validate(priced)
    asking(Item("a", "film", {"frames": 1}, reused=True)).validate(priced)


def test_each_item_is_rounded_by_itself() -> None:
    items = [Item(str(n), "film", {"frames": 1}) for n in range(10)]

    assert total(asking(*items), LAB) == {"frames": 10, "credits": 10, "requests": 10}


def test_a_sum_beyond_what_is_exact_is_invalid() -> None:
    items = [Item("a", "film", {"frames": 1}), Item("b", "film", {"tokens": MAX_AMOUNT})]

    with pytest.raises(InvalidRequestError, match="frames"):
        total(asking(items[0], frames=MAX_AMOUNT), LAB)
    assert total(asking(items[0], frames=MAX_AMOUNT - 1), LAB)["frames"] == MAX_AMOUNT


@given(st.integers(0, MAX_AMOUNT), st.integers(1, 10**6))
def test_rounding_up_is_the_smallest_integer_not_below(numerator: int, denominator: int) -> None:
    result = rounded_up(numerator, denominator)

    assert (result - 1) * denominator < numerator <= result * denominator


@pytest.mark.parametrize(("duration_ms", "seconds"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)])
def test_whole_seconds_never_promise_too_early(duration_ms: int, seconds: int) -> None:
    assert whole_seconds(duration_ms) == seconds
