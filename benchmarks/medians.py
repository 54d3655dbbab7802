"""The arithmetic of figures: a subject and its yardstick, measured in turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


@dataclass(frozen=True, slots=True)
class Slice:
    """One turn: what the subject and the yardstick took per operation, in the same unit."""

    subject: float
    yardstick: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Medians over all turns. `ratio` is that of the ratios, in each of which both had the same machine."""

    subject: float
    yardstick: float
    ratio: float


def compared(slices: Sequence[Slice]) -> Compared:
    """What the turns say together."""
    return Compared(
        subject=median(one.subject for one in slices),
        yardstick=median(one.yardstick for one in slices),
        ratio=median(one.subject / one.yardstick for one in slices),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    return sorted(values)[max(ceil(len(values) * percent / 100) - 1, 0)]
