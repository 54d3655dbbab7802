"""Which tenant a request is for: all alike, a few far more than others, or one hot one among the rest."""

from array import array
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Final

Picker = Callable[[Random], int]
"""Draws a tenant's number, from 0."""

MAX_TENANTS: Final = 1_000_000
_DEFAULT_ZIPF: Final = 1.0
_DEFAULT_HOT: Final = 0.5


def picker(spread: str, count: int) -> Picker:
    """The way to draw among `count` tenants.

    `spread` is "uniform"; "zipf" or "zipf:S", where the n-th tenant's weight is 1 / n^S; or "hot" or "hot:SHARE",
    where the first tenant gets that share and the others the rest, evenly. Raises ValueError.
    """
    if not 1 <= count <= MAX_TENANTS:
        raise ValueError(f"{count} tenants: from 1 to {MAX_TENANTS:,} are possible")
    name, _, parameter = spread.partition(":")
    match name:
        case "uniform" if not parameter:
            return lambda chance: int(chance.random() * count)
        case "zipf":
            return _zipf(count, _number(spread, parameter, _DEFAULT_ZIPF, 0, 10))
        case "hot":
            return _hot(count, _number(spread, parameter, _DEFAULT_HOT, 0, 1))
        case _:
            raise ValueError(f"{spread!r} is no spread of tenants; write uniform, zipf:1.1 or hot:0.5")


def _zipf(count: int, exponent: float) -> Picker:
    cumulative = array("d", accumulate((n + 1) ** -exponent for n in range(count)))
    total, last = cumulative[-1], count - 1

    def pick(chance: Random) -> int:
        return min(bisect_left(cumulative, chance.random() * total), last)

    return pick


def _hot(count: int, share: float) -> Picker:
    if count == 1:
        return lambda _chance: 0

    def pick(chance: Random) -> int:
        if chance.random() < share:
            return 0
        return 1 + int(chance.random() * (count - 1))

    return pick


def _number(spread: str, text: str, default: float, low: float, high: float) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        value = high + 1
    if not low <= value <= high:
        raise ValueError(f"{spread!r}: expected a number from {low:g} to {high:g} after the colon")
    return value
