"""`balance`: prepaid units, available, held and charged; twin of `engine/lua/include/balance.lua`.

At any time: granted - reversed + debt = available + held + charged + expired, and what was delivered is
charged + uncollected.
"""

from dataclasses import dataclass
from typing import ClassVar

from server.domain.limits.base import UNLIMITED, Change, Check, Ending, Kind, Limit, Look, PlanValues, Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance(Limit):
    """Units of `meter` that must be there before work starts.

    `opening` is what a new account is given; `debt` how far a settle beyond the hold may go below zero.
    """

    kind: ClassVar[Kind] = Kind.BALANCE

    opening: PlanValues = UNLIMITED
    debt: int = 0


@dataclass(slots=True)
class BalanceCell:
    """Running totals since the account began, in the meter's base units."""

    granted: int = 0
    reversed: int = 0
    charged: int = 0
    held: int = 0
    expired: int = 0
    uncollected: int = 0
    debt: int = 0

    @property
    def available(self) -> int:
        """What may still be held."""
        return self.granted - self.reversed + self.debt - self.charged - self.held - self.expired

    def grant(self, units: int) -> None:
        """Adds units; they pay back what is owed before they can be held."""
        self.granted += units
        self.debt -= min(self.debt, units)

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; waiting brings no money."""
        available = max(self.available, 0)
        fits = check.amount == 0 or check.amount <= available
        return Look(available + self.held, self.held, self.held, -1, 0 if fits else -1)

    def follow(self, now_ms: int) -> None:
        """Nothing: time changes nothing here."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Holds units."""
        self.held += check.take
        return self.look(check._replace(amount=0), now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Charges what was reported: the hold's own units, then unreserved ones, then debt up to the bound."""
        before, after = change.share(taken, change.before), change.share(taken, change.after)
        own = max(taken.amount - before, 0) if change.live else 0
        from_own = min(after - before, own)
        rest = after - before - from_own
        from_available = min(rest, max(self.available, 0))
        bound = limit.debt if isinstance(limit, Balance) else 0
        from_debt = min(rest - from_available, max(bound - self.debt, 0))
        uncollected = rest - from_available - from_debt
        self.held -= own if change.ending is not Ending.REPORT else from_own
        self.debt += from_debt
        self.charged += after - before - uncollected
        self.uncollected += uncollected
        return uncollected

    def is_empty(self, now_ms: int) -> bool:
        """Whether nothing ever happened here; totals are the account's history and are never forgotten."""
        return self == BalanceCell()
