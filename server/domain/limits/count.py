"""`count`: standing allocations, kept until they are given back; twin of `engine/lua/include/count.lua`.

A request takes a leased place. The final settle makes it an allocation that the caller names, and which has no end.
Which names stand is kept beside the cell, so that giving one back twice gives back once.
"""

from dataclasses import dataclass
from typing import ClassVar

from server.domain.limits.base import Change, Check, Ending, Kind, Limit, Look, Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Limit):
    """At most `values` units that stand or are about to; what stands is counted, whether or not there is a limit."""

    kind: ClassVar[Kind] = Kind.COUNT


@dataclass(slots=True)
class CountCell:
    """Units that stand, and units that open holds keep places for."""

    standing: int = 0
    held: int = 0

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; nobody can say when an allocation will be given back."""
        used = self.standing + self.held
        fits = check.amount == 0 or used + check.amount <= check.cap
        return Look(check.cap, used, self.held, -1, 0 if fits else -1)

    def follow(self, now_ms: int) -> None:
        """Nothing: time changes nothing here."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Takes places."""
        self.held += check.take
        return self.look(check._replace(amount=0), now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Gives the places back when the hold ends; what stands from then on is added by `stand`."""
        if change.live and change.ending is not Ending.REPORT:
            self.held -= taken.amount
        return 0

    def stand(self, units: int) -> None:
        """Adds units of an allocation, also beyond the limit: it exists."""
        self.standing += units

    def give_back(self, units: int) -> None:
        """Takes away units of an allocation that is gone."""
        self.standing -= units

    def is_empty(self, now_ms: int) -> bool:
        """Whether nothing stands and no place is kept."""
        return not (self.standing or self.held)
