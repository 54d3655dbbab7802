"""Amounts as people write them (`60s`, `$0.05`, `1_000`), turned once into integers of a base unit."""

import re
from typing import Final

from server.domain.policy import Unit
from server.domain.units import MAX_AMOUNT
from server.policy.document import shown

UNLIMITED: Final = "unlimited"
"""The value of a limit that does not apply."""

EXPECTED: Final = {
    Unit.COUNT: "a whole number such as 450 or 1_000",
    Unit.DURATION: "a duration such as 500ms, 60s, 30m, 2h or 30d",
    Unit.MONEY: "an amount of money such as $30 or $0.05",
}
"""How amounts of each unit are written."""

_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MICROS_PER_DOLLAR: Final = 1_000_000
_BASE: Final = {Unit.COUNT: "1", Unit.DURATION: "1ms", Unit.MONEY: "$0.000001"}
_WRITTEN: Final = re.compile(r"(\$?)([0-9][0-9_]*)(?:\.([0-9]+))?(ms|[smhd]|)", re.ASCII)
_MAX_LENGTH: Final = 32


def amount(written: int | str, unit: Unit) -> int:
    """Base units of `unit` (counts, milliseconds or millionths of a dollar); 0 needs no sign or suffix.

    Raises ValueError that says what was expected.
    """
    match = _WRITTEN.fullmatch(str(written)) if len(str(written)) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError(f"{shown(written)} is no amount; expected {EXPECTED[unit]}")
    dollar, whole, fraction, suffix = match[1], match[2].replace("_", ""), match[3] or "", match[4]
    digits = int(whole + fraction)
    if (dollar and suffix) or (digits and not _fits(unit, dollar, suffix)):
        raise ValueError(f"{shown(written)} has another unit; expected {EXPECTED[unit]}")
    scale = {Unit.COUNT: 1, Unit.DURATION: _MS.get(suffix, 0), Unit.MONEY: _MICROS_PER_DOLLAR}[unit]
    base_units, rest = divmod(digits * scale, int(f"1{'0' * len(fraction)}"))
    if rest:
        raise ValueError(f"{shown(written)} is finer than {_BASE[unit]}; expected {EXPECTED[unit]}")
    if base_units > MAX_AMOUNT:
        raise ValueError(f"{shown(written)} is too large; expected at most {MAX_AMOUNT} base units")
    return base_units


def _fits(unit: Unit, dollar: str, suffix: str) -> bool:
    return bool(dollar) == (unit is Unit.MONEY) and bool(suffix) == (unit is Unit.DURATION)
