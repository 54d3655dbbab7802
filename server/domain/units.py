"""Bounds and units that every layer shares.

All quantities are integers in base units: counts, milliseconds, or millionths of a US dollar. Lua numbers are
doubles, so nothing may pass 2^53 - 1.
"""

from typing import Final

MAX_AMOUNT: Final = 2**53 - 1
"""The largest amount that a Lua double keeps exactly."""

MAX_ID_BYTES: Final = 128
"""Longest tenant, request id, action, dimension name or value, in UTF-8 bytes."""

MAX_SCOPE: Final = 16
"""Most dimensions in one request."""

MAX_METERS: Final = 16
"""Most meters in one request."""

MAX_ITEMS: Final = 256
"""Most priced items in one request; they are kept with the hold."""

MAX_FRACTION_PARTS: Final = 1_000_000
"""Largest denominator of a delivered fraction; keeps every product below 2^53."""

FOREVER_MS: Final = MAX_AMOUNT
"""A time that never comes."""


def rounded_up(numerator: int, denominator: int) -> int:
    """Integer division that rounds towards the larger value."""
    return -(-numerator // denominator)


def whole_seconds(duration_ms: int) -> int:
    """Milliseconds as whole seconds, rounded up: what HTTP headers carry."""
    return rounded_up(duration_ms, 1000)
