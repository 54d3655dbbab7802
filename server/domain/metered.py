"""How a meter is measured by samples, and how its sums are read. Pure.

What is kept are integers in the meter's own base unit. They are turned into the unit that people read when somebody
reads them, and only then rounded, down.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from server.domain.units import MAX_AMOUNT, rounded_up

DAY_MS: Final = 86_400_000


class Way(StrEnum):
    """How use is measured: seconds that something of a size ran within a slot, a size that stands for a slot, or
    amounts by id.
    """

    RUNTIME = "runtime"
    LEVEL = "level"
    AMOUNT = "amount"


class Per(StrEnum):
    """What the reading of a meter is divided by, beside a number."""

    NOTHING = ""
    CYCLE_SECONDS = "cycle_seconds"
    CYCLE_DAYS = "cycle_days"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a meter is sampled and read.

    `slot_ms` is how long a slot of a runtime or level is. A runtime is worth size x seconds; a size that stands for a
    slot is worth `worth` times that size; an amount is worth itself. What is read is the sum x `times` / (`per` x what
    `by` says of the cycle).
    """

    way: Way
    slot_ms: int = 0
    worth: int = 1
    times: int = 1
    per: int = 1
    by: Per = Per.NOTHING

    @property
    def identity(self) -> str:
        """What a sum does not survive the change of: it would be another unit."""
        return f"{self.way} {self.slot_ms} {self.worth}"

    def divisor(self, start_ms: int, end_ms: int) -> int:
        """What sums of a cycle are divided by, once they are multiplied by `times`."""
        if self.by is Per.CYCLE_SECONDS:
            return self.per * ((end_ms - start_ms) // 1000)
        if self.by is Per.CYCLE_DAYS:
            return self.per * ((end_ms - start_ms + DAY_MS // 2) // DAY_MS)
        return self.per

    def read(self, units: int, start_ms: int, end_ms: int) -> int:
        """Units of a cycle as people read them."""
        return min(units * self.times // self.divisor(start_ms, end_ms), MAX_AMOUNT)

    def kept(self, shown: int, start_ms: int, end_ms: int) -> int:
        """The fewest units of a cycle that are read as so many."""
        return min(rounded_up(shown * self.divisor(start_ms, end_ms), self.times), MAX_AMOUNT)
