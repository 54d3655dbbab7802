"""Quantities that vary from request to request: units, shares and waits, as people write them."""

import math
import re
from dataclasses import dataclass
from random import Random
from typing import Final, Self

_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_RANGE: Final = ".."
_LARGEST: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Units:
    """A whole number of base units, from `low` to `high`, each as likely."""

    low: int
    high: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """From 5, "5" or "5..10"; raises ValueError."""
        low, high = _ends(value)
        if not (_is_whole(low) and _is_whole(high)):
            raise ValueError(f"{value!r} is no amount; write a whole number such as 5, or a range such as 5..10")
        found = cls(int(low), int(high))
        if not found.low <= found.high <= _LARGEST:
            raise ValueError(f"{value!r} is no range of amounts; it must rise and stay below 2^53")
        return found

    def draw(self, chance: Random) -> int:
        """One amount."""
        if self.low == self.high:
            return self.low
        return self.low + int(chance.random() * (self.high - self.low + 1))


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, from `low` to `high`, each as likely."""

    low: float
    high: float

    @classmethod
    def parse(cls, value: object) -> Self:
        """From 1, 0.5, "0.5" or "0.25..1"; raises ValueError."""
        low, high = _ends(value)
        try:
            found = cls(float(low), float(high))
        except ValueError:
            found = cls(math.nan, math.nan)
        if not 0 <= found.low <= found.high <= 1:
            raise ValueError(f"{value!r} is no share; write a number from 0 to 1, or a range such as 0.25..1")
        return found

    def draw(self, chance: Random) -> float:
        """One share."""
        return self.low + chance.random() * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Wait:
    """A time in seconds: from `low_s` to `high_s`, each as likely; or, with `mean_s`, exponential."""

    low_s: float
    high_s: float
    mean_s: float = 0.0

    @classmethod
    def parse(cls, value: object) -> Self:
        """From "50ms", "50ms..2s" or "mean 200ms"; a bare number is seconds. Raises ValueError."""
        text = str(value)
        if text.startswith("mean "):
            return cls(0.0, 0.0, mean_s=seconds(text.removeprefix("mean ")))
        low, high = _ends(value)
        found = cls(seconds(low), seconds(high))
        if found.low_s > found.high_s:
            raise ValueError(f"{value!r} is no range of times; it must rise")
        return found

    def draw(self, chance: Random) -> float:
        """One time in seconds."""
        if self.mean_s:
            return chance.expovariate(1 / self.mean_s)
        if self.low_s == self.high_s:
            return self.low_s
        return self.low_s + chance.random() * (self.high_s - self.low_s)


def seconds(text: str) -> float:
    """Seconds from "50ms", "2s", "5m", "1h" or a bare number of seconds; raises ValueError."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time; write it as 50ms, 2s, 5m or 1h")
    return float(found[1]) * _UNIT_S[found[2]]


def _ends(value: object) -> tuple[str, str]:
    low, dots, high = str(value).partition(_RANGE)
    return low.strip(), (high if dots else low).strip()


def _is_whole(text: str) -> bool:
    return text.replace("_", "").isdecimal() and text.isascii()
