"""`balance`: prepaid units, available, held and charged; twin of `engine/lua/include/balance*.lua`.

At any time: granted - reversed + debt = available + held + charged + expired, and what was delivered is
charged + uncollected.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Final, TypeAlias

from server.domain.cycle import Months, day_of_month
from server.domain.ledger import Totals
from server.domain.limits.base import UNLIMITED, Change, Check, Draw, Ending, Kind, Limit, Look, PlanValues, Taken
from server.domain.units import FOREVER_MS, MAX_AMOUNT

MOST_GRANTS: Final = 64
"""Most grants that one balance keeps apart."""


Marks: TypeAlias = tuple[int, ...]
"""Thresholds of a balance in base units, the highest first."""


class GrantSource(IntEnum):
    """Where units came from; the numbers are stored and never change."""

    MONTHLY = 1
    BOUGHT = 2
    PROMOTIONAL = 3


@dataclass(frozen=True, slots=True)
class Refilling:
    """Each cycle begins with at least `to` units available and held: by the calendar, or anchored on the account's
    creation.
    """

    to: PlanValues
    calendar: bool = False

    def months(self, created_at_ms: int) -> Months:
        """The cycles of an account."""
        return Months() if self.calendar else Months(day_of_month(created_at_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance(Limit):
    """Units of `meter` that must be there before work starts.

    `opening` is what a new account is given; `debt` how far a settle beyond the hold may go below zero. With a
    `burn` order, which has every source, grants are kept apart and used up in that order. `ledger` writes an entry
    for each movement of money. When what is left, held units included, falls to one of `thresholds`, that is noted.
    """

    kind: ClassVar[Kind] = Kind.BALANCE

    opening: PlanValues = UNLIMITED
    debt: int = 0
    burn: tuple[GrantSource, ...] = ()
    refill: Refilling | None = None
    ledger: bool = False
    thresholds: tuple[PlanValues, ...] = ()

    def marks(self, plan: str) -> Marks:
        """What is told of an account on this plan; nothing on an unknown one."""
        known = [mark.of(plan) for mark in self.thresholds if mark.by_plan is None or plan in mark.by_plan]
        return tuple(sorted({mark for mark in known if mark is not None}, reverse=True))


def fallen(marks: Marks, before: int, after: int) -> Marks:
    """The marks that a fall from `before` to `after` units has reached, the highest first. Whoever rises above a mark
    may fall to it again.
    """
    return tuple(mark for mark in marks if before > mark >= after)


@dataclass(slots=True)
class Grant:
    """All units of one source and one expiry, as far as they are neither held nor charged."""

    source: GrantSource
    expires_at_ms: int
    left: int


@dataclass(slots=True)
class BalanceCell:
    """Running totals since the account began, in the meter's base units, and the grants that are kept apart.

    What of the available units is in none of `grants` is monthly, without an expiry. A grant stays until its time is
    over, even when nothing is left of it, since a hold may bring something back. `order` and `ledgered` are those of
    the policy that last changed a grant.
    """

    granted: int = 0
    reversed: int = 0
    charged: int = 0
    held: int = 0
    expired: int = 0
    uncollected: int = 0
    debt: int = 0
    grants: list[Grant] = field(default_factory=list)
    order: tuple[GrantSource, ...] = ()
    ledgered: bool = False

    @property
    def totals(self) -> Totals:
        """The totals at this moment."""
        return Totals(self.granted, self.reversed, self.charged, self.held, self.expired, self.uncollected, self.debt)

    @property
    def available(self) -> int:
        """What may still be held."""
        return self.totals.available

    def grant(
        self,
        units: int,
        source: GrantSource = GrantSource.MONTHLY,
        expires_at_ms: int = FOREVER_MS,
        limit: Balance | None = None,
    ) -> None:
        """Adds units; they pay back what is owed before they can be held."""
        repaid = min(self.debt, units)
        self.granted += units
        self.debt -= repaid
        if limit is None or not limit.burn or (source, expires_at_ms) == (GrantSource.MONTHLY, FOREVER_MS):
            return
        self.order, self.ledgered = limit.burn, limit.ledger
        known = self._grant(source, expires_at_ms)
        if known is None:
            known = Grant(source, expires_at_ms, 0)
            self.grants.append(known)
            self.grants.sort(key=lambda grant: (grant.source, grant.expires_at_ms))
        known.left += units - repaid

    def reverse(self, units: int, source: GrantSource, bound: int) -> int:
        """Takes units back, from their source first, then from debt up to the bound; how many."""
        taken = min(units, max(self.available, 0))
        owed = min(units - taken, max(bound - self.debt, 0))
        self._draw(taken, (source, *self.order))
        self.reversed += taken + owed
        self.debt += owed
        return taken + owed

    def top_up(self, ceiling: int) -> None:
        """Raises what is available and held to the ceiling; takes nothing away."""
        self.grant(min(max(ceiling - max(self.available, 0) - self.held, 0), MAX_AMOUNT - self.granted))

    def lapse(self, at_ms: int) -> None:
        """Lets go of the grants whose time is over."""
        self.expired += sum(grant.left for grant in self.grants if grant.expires_at_ms <= at_ms)
        self._keep(grant for grant in self.grants if grant.expires_at_ms > at_ms)

    def correct(self, totals: Totals) -> None:
        """Takes over totals; of the grants, the last ones are cut where they are more than is available."""
        self.granted, self.reversed, self.charged, self.held, self.expired, self.uncollected, self.debt = totals
        left = self.available
        for grant in self.grants:
            grant.left = max(min(grant.left, left), 0)
            left -= grant.left

    def next_expiry_ms(self) -> int:
        """When a grant's time is over."""
        return min((grant.expires_at_ms for grant in self.grants), default=FOREVER_MS)

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; waiting brings no money."""
        available = max(self.available, 0)
        fits = check.amount == 0 or check.amount <= available
        return Look(available + self.held, self.held, self.held, -1, 0 if fits else -1)

    def follow(self, now_ms: int) -> None:
        """Nothing: time changes nothing here."""

    def drawn(self, check: Check) -> tuple[Draw, ...]:
        """Takes what the check takes out of the grants; what came from where."""
        limit = check.limit
        if self.grants and check.take and isinstance(limit, Balance) and limit.burn:
            self.order = limit.burn
        return self._draw(check.take, self.order)

    def take(self, check: Check, now_ms: int) -> Look:
        """Holds units."""
        self.held += check.take
        return self.look(check._replace(amount=0), now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Charges what was reported: the hold's own units, then unreserved ones, then debt up to the bound.

        What the hold does not use goes back to the grant that it came from, or is expired with it.
        """
        before, after = change.share(taken, change.before), change.share(taken, change.after)
        own = max(taken.amount - before, 0) if change.live else 0
        from_own = min(after - before, own)
        rest = after - before - from_own
        from_available = min(rest, max(self.available, 0))
        bound = limit.debt if isinstance(limit, Balance) else 0
        from_debt = min(rest - from_available, max(bound - self.debt, 0))
        uncollected = rest - from_available - from_debt
        self._draw(from_available, self.order)
        if change.live and change.ending is not Ending.REPORT:
            self._give_back(taken.draws, kept=min(after, taken.amount))
        self.held -= own if change.ending is not Ending.REPORT else from_own
        self.debt += from_debt
        self.charged += after - before - uncollected
        self.uncollected += uncollected
        return uncollected

    def is_empty(self, now_ms: int) -> bool:
        """Whether nothing ever happened here; totals are the account's history and are never forgotten."""
        return self == BalanceCell()

    def _grant(self, source: int, expires_at_ms: int) -> Grant | None:
        known = (grant for grant in self.grants if (grant.source, grant.expires_at_ms) == (source, expires_at_ms))
        return next(known, None)

    def _draw(self, units: int, order: Sequence[GrantSource]) -> tuple[Draw, ...]:
        """Takes units out of the grants; nothing to do while the balance is one sum."""
        if not self.grants:
            return ()
        free = self.available - sum(grant.left for grant in self.grants)
        draws: list[Draw] = []
        for source in order:
            own = [grant for grant in self.grants if grant.source is source]
            for grant in own:
                part = min(units, grant.left)
                grant.left -= part
                units -= part
                draws.append(Draw(source, grant.expires_at_ms, part))
            if source is GrantSource.MONTHLY:
                part = min(units, free)
                units, free = units - part, free - part
                draws.append(Draw(source, FOREVER_MS, part))
        return tuple(draw for draw in draws if draw.units)

    def _give_back(self, draws: Sequence[Draw], kept: int) -> None:
        for source, expires_at_ms, units in draws:
            back = max(units - kept, 0)
            kept = max(kept - units, 0)
            if (source, expires_at_ms) == (GrantSource.MONTHLY, FOREVER_MS):
                continue
            grant = self._grant(source, expires_at_ms)
            if grant is None:
                self.expired += back
            else:
                grant.left += back

    def _keep(self, grants: Iterable[Grant]) -> None:
        self.grants = list(grants)
        if not self.grants:
            self.order, self.ledgered = (), False
