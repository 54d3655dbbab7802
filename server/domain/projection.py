"""What a billing cycle will come to, from what was used of it so far. Integers, rounded down.

The run rate takes the rest of the cycle to be used as its beginning was. It says nothing in a cycle's first day: one
busy hour would stand for a month.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from server.domain.units import MAX_AMOUNT, rounded_up

QUIET_MS: Final = 86_400_000
"""How long a cycle goes on before anything is said of its end."""


class Method(IntEnum):
    """What an estimate stands on."""

    RUN_RATE = 1


class Confidence(IntEnum):
    """How much of the cycle the estimate has seen: less than a quarter, less than a half, or more."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Projection(NamedTuple):
    """`used` is what will have been settled when the cycle ends, in base units. `exhausted_at_ms` is when the
    allowance is used up if that goes on; None where it is used up already, or lasts for the cycle.
    """

    used: int
    method: Method
    confidence: Confidence
    exhausted_at_ms: int | None = None


def projected(used: int, elapsed_ms: int, cycle_ms: int) -> int | None:
    """Use at the end of a cycle of `cycle_ms` when `used` units took `elapsed_ms`; None while that is too short."""
    if elapsed_ms < QUIET_MS:
        return None
    return min(used * cycle_ms // elapsed_ms, MAX_AMOUNT)


def run_rate(used: int, allowance: int, cycle: tuple[int, int], now_ms: int) -> Projection | None:
    """The estimate for a cycle (its first instant, and the first one after it); None while there is none."""
    start_ms, end_ms = cycle
    elapsed_ms, cycle_ms = now_ms - start_ms, end_ms - start_ms
    total = projected(used, elapsed_ms, cycle_ms)
    if total is None:
        return None
    exhausted_at_ms = None
    if used < allowance <= total and allowance < MAX_AMOUNT:
        exhausted_at_ms = start_ms + rounded_up(allowance * elapsed_ms, used)
    return Projection(total, Method.RUN_RATE, _confidence(elapsed_ms, cycle_ms), exhausted_at_ms)


def _confidence(elapsed_ms: int, cycle_ms: int) -> Confidence:
    if elapsed_ms * 4 < cycle_ms:
        return Confidence.LOW
    return Confidence.MEDIUM if elapsed_ms * 2 < cycle_ms else Confidence.HIGH
