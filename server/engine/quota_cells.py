"""A quota's cell and terms as bytes, as `lua/include/quota.lua` has them: big-endian numbers, one behind the other."""

from collections.abc import Sequence
from typing import Final

from server.domain.errors import CorruptStateError
from server.domain.limits.base import CycleTerms
from server.domain.limits.quota import CycleUse

_TERMS: Final = (6, 7, 6, 7, 7)
"""Sizes of a check's terms: start, end, grace, overage, price."""

_START: Final = 6

_CYCLE: Final = (6, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 1)
"""Sizes of a cell's entry: start, end, limit, overage allowed, grace, price, within, overage, grace, over_hard, held,
exhausted at, noted.
"""

CYCLE_SIZE: Final = sum(_CYCLE)


def packed_terms(terms: CycleTerms) -> bytes:
    """What a check needs to know of its cycle."""
    return _packed(_TERMS, (terms.start_ms, terms.end_ms, terms.grace_ms, terms.overage, terms.price))


def packed_cycle(start_ms: int, thresholds: Sequence[int]) -> bytes:
    """What a hold remembers: the cycle that it was taken in, and the thresholds in percent, in rising order."""
    return start_ms.to_bytes(_START, "big") + bytes(thresholds)


def cycles_of(cell: bytes) -> list[CycleUse]:
    """The cycles that a cell remembers, the latest first; none for an empty cell."""
    if len(cell) % CYCLE_SIZE:
        raise CorruptStateError(f"a quota cell has {len(cell)} bytes, which is no multiple of {CYCLE_SIZE}")
    return [_cycle(cell[at : at + CYCLE_SIZE]) for at in range(0, len(cell), CYCLE_SIZE)]


def _cycle(entry: bytes) -> CycleUse:
    numbers, at = [], 0
    for size in _CYCLE:
        numbers.append(int.from_bytes(entry[at : at + size], "big"))
        at += size
    start_ms, end_ms, limit, allowed, grace_ms, price, *use = numbers
    terms = CycleTerms(start_ms, end_ms, overage=allowed, grace_ms=grace_ms, price=price)
    within, overage, grace, over_hard, held, exhausted_at_ms, noted = use
    return CycleUse(terms, limit, within, overage, grace, over_hard, held, exhausted_at_ms, noted)


def _packed(sizes: Sequence[int], numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(size, "big") for size, number in zip(sizes, numbers, strict=True))
