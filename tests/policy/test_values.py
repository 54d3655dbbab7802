"""Amounts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.policy import Unit
from server.domain.units import MAX_AMOUNT
from server.policy.values import amount


@pytest.mark.parametrize(
    ("written", "unit", "base_units"),
    [
        (30, Unit.COUNT, 30),
        ("30", Unit.COUNT, 30),
        ("1_000", Unit.COUNT, 1000),
        ("3.0", Unit.COUNT, 3),
        (MAX_AMOUNT, Unit.COUNT, MAX_AMOUNT),
        ("500ms", Unit.DURATION, 500),
        ("60s", Unit.DURATION, 60_000),
        ("0.5s", Unit.DURATION, 500),
        ("30m", Unit.DURATION, 1_800_000),
        ("1.5h", Unit.DURATION, 5_400_000),
        ("30d", Unit.DURATION, 2_592_000_000),
        ("$30", Unit.MONEY, 30_000_000),
        ("$0.05", Unit.MONEY, 50_000),
        ("$1_000.000001", Unit.MONEY, 1_000_000_001),
        (0, Unit.COUNT, 0),
        (0, Unit.DURATION, 0),
        (0, Unit.MONEY, 0),
        ("0s", Unit.DURATION, 0),
        ("$0", Unit.MONEY, 0),
    ],
)
def test_an_amount_is_read_in_base_units(written: int | str, unit: Unit, base_units: int) -> None:
    assert amount(written, unit) == base_units


@pytest.mark.parametrize(
    ("written", "unit", "wrong"),
    [
        ("", Unit.COUNT, "no amount"),
        ("ten", Unit.COUNT, "no amount"),
        (-1, Unit.COUNT, "no amount"),
        ("1,000", Unit.COUNT, "no amount"),
        ("1e3", Unit.COUNT, "no amount"),
        ("_1", Unit.COUNT, "no amount"),
        ("٣", Unit.COUNT, "no amount"),
        ("9" * 33, Unit.COUNT, "no amount"),
        (MAX_AMOUNT + 1, Unit.COUNT, "too large"),
        ("0.5", Unit.COUNT, "finer"),
        ("60s", Unit.COUNT, "another unit"),
        ("$5", Unit.COUNT, "another unit"),
        (60, Unit.DURATION, "another unit"),
        ("$5", Unit.DURATION, "another unit"),
        ("1 h", Unit.DURATION, "no amount"),
        ("2w", Unit.DURATION, "no amount"),
        ("0.5ms", Unit.DURATION, "finer"),
        ("0.05", Unit.MONEY, "another unit"),
        ("$5s", Unit.MONEY, "another unit"),
        ("$0s", Unit.MONEY, "another unit"),
        ("€5", Unit.MONEY, "no amount"),
        ("$0.0000001", Unit.MONEY, "finer"),
        ("$9007199255", Unit.MONEY, "too large"),
    ],
)
def test_what_is_no_amount_says_what_was_expected(written: int | str, unit: Unit, wrong: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        amount(written, unit)
    assert wrong in str(caught.value)


@given(st.integers(min_value=0, max_value=MAX_AMOUNT))
def test_money_is_read_to_the_micro(micros: int) -> None:
    assert amount(f"${micros // 10**6}.{micros % 10**6:06d}", Unit.MONEY) == micros
