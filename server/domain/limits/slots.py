"""`slots`: a pool of concurrent places with leases; twin of `engine/lua/include/slots_taken.lua`.

The cell is a count; whose place it is and until when is the hold's lease, and overdue holds are given back
before anybody counts.
"""

from dataclasses import dataclass
from typing import ClassVar

from server.domain.limits.base import Change, Check, Ending, Kind, Limit, Look, Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots(Limit):
    """At most `values` places at once. `typical_ms` is the usual length of a job, for the hint; 0 if unknown."""

    kind: ClassVar[Kind] = Kind.SLOTS

    typical_ms: int = 0


@dataclass(slots=True)
class SlotsCell:
    """Places taken."""

    taken: int = 0

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; a full pool cannot say when a place will be free."""
        fits = check.amount == 0 or self.taken + check.amount <= check.cap
        return Look(check.cap, self.taken, self.taken, -1, 0 if fits else -1)

    def follow(self, now_ms: int) -> None:
        """Nothing: time changes nothing here."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Takes places."""
        self.taken += check.take
        return self.look(check._replace(amount=0), now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Frees the places when the hold ends, however it ends."""
        if change.live and change.ending is not Ending.REPORT:
            self.taken -= taken.amount
        return 0

    def is_empty(self, now_ms: int) -> bool:
        """Whether no place is taken."""
        return self.taken == 0
