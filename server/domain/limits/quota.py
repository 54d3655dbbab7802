"""`quota`: an allowance per billing cycle, with overage, grace and a hard stop; twin of `engine/lua/include/quota.lua`.

A cell is the history of one allowance: an entry per cycle, the latest first. A hold belongs to the cycle in which it
was taken, whenever it is settled. Of each cycle, used = within + overage + grace + over_hard, to the unit: up to the
limit, the units billed above it, those served after exhaustion while its grace lasted, and those that were delivered
beyond all of that. Nothing delivered is ever left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import ClassVar, Final, NamedTuple

from server.domain.account import Account
from server.domain.cycle import Cycle, Months, day_of_month
from server.domain.limits.base import Change, Check, CycleTerms, Ending, Kind, Limit, Look, PlanValues, Taken
from server.domain.metered import Sampling
from server.domain.units import MAX_AMOUNT, rounded_up

PAST_CYCLES: Final = 12
"""Cycles that a cell remembers behind its latest one. Older ones leave at a roll-over, unless a hold is still open."""

NOTHING: Final = PlanValues(constant=0)
"""No units for anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota(Limit):
    """At most `values` units of `meter` per cycle; unlimited ones only count.

    Cycles are months: from the day of the account's creation when `anchored`, else calendar months, in `zone`. Above
    the limit `overage` units (None: any number) are billed at `price` millionths of a dollar each. When settled use
    has reached both, the quota is exhausted, and `grace` milliseconds later it is enforced. A settle that reaches one
    of `thresholds`, in rising percents of the limit, is noted. Without `hard_stop`, and for accounts with the flag
    `lifted_by`, nothing is ever refused, whatever was used. With `sampling` it is kept in the base unit of its meter,
    and `values` are in the unit that people read.
    """

    kind: ClassVar[Kind] = Kind.QUOTA

    anchored: bool = True
    zone: tzinfo = UTC
    overage: PlanValues = NOTHING
    price: PlanValues = NOTHING
    grace: PlanValues = NOTHING
    thresholds: tuple[int, ...] = ()
    hard_stop: bool = True
    sampling: Sampling | None = None

    def cycle(self, account: Account, now_ms: int) -> Cycle:
        """The account's cycle at `now_ms`."""
        return Months(self.anchor(account), self.zone).cycle_of(now_ms)

    def anchor(self, account: Account) -> int:
        """The day of the month on which the account's cycles begin; the 1st for a tenant without an account."""
        return day_of_month(account.created_at_ms, self.zone) if self.anchored else 1

    def terms(self, account: Account, now_ms: int) -> CycleTerms:
        """What the account is allowed in its cycle at `now_ms`, beside the limit itself."""
        overage = self.overage.of(account.plan)
        stops = self.hard_stop and not account.flags.get(self.lifted_by)
        return CycleTerms(
            *self.cycle(account, now_ms),
            overage=MAX_AMOUNT if overage is None or not stops else overage,
            grace_ms=self.grace.of(account.plan) or 0,
            price=self.price.of(account.plan) or 0,
        )

    def cap(self, value: int | None, terms: CycleTerms) -> int:
        """A value of the limit in the unit that its cells are kept in."""
        if value is None:
            return MAX_AMOUNT
        return value if self.sampling is None else self.sampling.kept(value, terms.start_ms, terms.end_ms)

    def shown(self, look: Look, terms: CycleTerms, cap: int) -> Look:
        """Figures in the unit that people read, in which the limit is `cap`."""
        if self.sampling is None:
            return look
        return look._replace(cap=cap, used=self.read(look.used, terms), held=self.read(look.held, terms))

    def readable(self, cycle: "CycleUse") -> "CycleUse":
        """A cycle in the unit that people read; its parts still add up to what was used."""
        if self.sampling is None:
            return cycle
        sums = accumulate((cycle.within, cycle.overage, cycle.grace, cycle.over_hard), initial=0)
        parts = [self.read(units, cycle.terms) for units in sums]
        within, overage, grace, over_hard = [after - before for before, after in pairwise(parts)]
        return replace(
            cycle,
            limit=cycle.limit if cycle.limit == MAX_AMOUNT else self.read(cycle.limit, cycle.terms),
            within=within,
            overage=overage,
            grace=grace,
            over_hard=over_hard,
            held=self.read(cycle.held, cycle.terms),
        )

    def read(self, units: int, terms: CycleTerms) -> int:
        """Units of a cycle as people read them."""
        return units if self.sampling is None else self.sampling.read(units, terms.start_ms, terms.end_ms)


class QuotaState(IntEnum):
    """How far a cycle is from refusing: below the limit, billed above it, exhausted but in grace, or enforced."""

    WITHIN = 1
    OVERAGE = 2
    GRACE = 3
    ENFORCED = 4


class Crossing(NamedTuple):
    """Settled use reached `percent` of `limit` in the cycle from `start_ms` to `end_ms`."""

    start_ms: int
    end_ms: int
    percent: int
    limit: int
    used: int


@dataclass(slots=True)
class CycleUse:
    """One cycle: the terms of the last take in it, and its use in units of the meter.

    `exhausted_at_ms` is when settled use reached the limit and its overage, 0 while it has not. `noted` is the highest
    threshold that was noted under this limit, in percent.
    """

    terms: CycleTerms
    limit: int
    within: int = 0
    overage: int = 0
    grace: int = 0
    over_hard: int = 0
    held: int = 0
    exhausted_at_ms: int = 0
    noted: int = 0

    @property
    def used(self) -> int:
        """What was settled; open holds do not count."""
        return self.within + self.overage + self.grace + self.over_hard

    @property
    def bound(self) -> int:
        """Units that are allowed before the quota is exhausted."""
        return min(self.limit + self.terms.overage, MAX_AMOUNT)

    @property
    def overage_price(self) -> int:
        """What the overage costs, in millionths of a dollar; at most what any amount may be."""
        return min(self.overage * self.terms.price, MAX_AMOUNT)

    @property
    def grace_ends_at_ms(self) -> int | None:
        """When enforcement begins: with the end of the grace, or of the cycle if that comes first. None while the
        quota is not exhausted, or where there is no grace.
        """
        if not self.exhausted_at_ms or not self.terms.grace_ms:
            return None
        return min(self.exhausted_at_ms + self.terms.grace_ms, self.terms.end_ms)

    def state(self, at_ms: int) -> QuotaState:
        """Where the cycle stood at an instant in it, with the use that is known now."""
        if self.used < min(self.limit, self.bound) or self.limit == MAX_AMOUNT:
            return QuotaState.WITHIN
        if self.used < self.bound:
            return QuotaState.OVERAGE
        ends_at_ms = self.grace_ends_at_ms
        return QuotaState.GRACE if ends_at_ms is not None and at_ms < ends_at_ms else QuotaState.ENFORCED

    def blocks(self, amount: int, now_ms: int) -> bool:
        """Whether so much does not fit: never before enforcement, and whole or not at all under it."""
        total = self.used + self.held + amount
        if amount == 0 or total <= self.bound:
            return False
        if total > MAX_AMOUNT or not self.terms.grace_ms:
            return True
        in_grace = not self.exhausted_at_ms or now_ms < self.exhausted_at_ms + self.terms.grace_ms
        return self.used >= self.bound and not in_grace

    def renew(self, terms: CycleTerms, limit: int, now_ms: int) -> None:
        """Takes over the terms of a request. Use above a raised limit is no longer exhausted, and use above a lowered
        one is from now; a changed limit arms its thresholds again.
        """
        if limit != self.limit:
            self.noted = 0
        self.terms, self.limit = terms, limit
        if self.used < self.bound:
            self.exhausted_at_ms = 0
        elif not self.exhausted_at_ms:
            self.exhausted_at_ms = now_ms

    def take_back(self, units: int) -> None:
        """Takes away use that a correction found too high, what was counted last first."""
        for part in ("over_hard", "grace", "overage", "within"):
            taken = min(units, getattr(self, part))
            setattr(self, part, getattr(self, part) - taken)
            units -= taken
        if self.used < self.bound:
            self.exhausted_at_ms = 0

    def charge(self, units: int, taken_at_ms: int, now_ms: int) -> None:
        """Adds what was delivered under a hold of `taken_at_ms`: grace covers what was admitted while it lasted."""
        before, after = self.used, self.used + units
        within = max(min(after, self.limit) - before, 0)
        billed = max(min(after, self.bound) - max(before, self.limit), 0)
        rest = units - within - billed
        ends_at_ms = (self.exhausted_at_ms or now_ms) + self.terms.grace_ms
        graced = rest if self.terms.grace_ms and (taken_at_ms < ends_at_ms) else 0
        self.within += within
        self.overage += billed
        self.grace += graced
        self.over_hard += rest - graced
        if after >= self.bound and not self.exhausted_at_ms:
            self.exhausted_at_ms = now_ms

    def crossings(self, thresholds: tuple[int, ...]) -> Iterator[Crossing]:
        """The thresholds that use has reached and that were not noted yet; a share of nothing is none."""
        bounded = 0 < self.limit < MAX_AMOUNT
        for percent in thresholds:
            if bounded and percent > self.noted and self.used >= rounded_up(self.limit * percent, 100):
                self.noted = percent
                yield Crossing(self.terms.start_ms, self.terms.end_ms, percent, self.limit, self.used)


@dataclass(slots=True)
class QuotaCell:
    """The cycles of one allowance, the latest first, and the crossings that nobody has taken down yet."""

    cycles: list[CycleUse] = field(default_factory=list)
    crossed: list[Crossing] = field(default_factory=list)

    def known(self, start_ms: int) -> CycleUse | None:
        """The cycle that begins then; None where nothing was asked of it."""
        return next((cycle for cycle in self.cycles if cycle.terms.start_ms == start_ms), None)

    def _seen(self, check: Check, now_ms: int) -> CycleUse:
        """The check's cycle as it would be under the check's terms; the cell is not changed."""
        assert check.terms is not None
        known = self.known(check.terms.start_ms)
        seen = CycleUse(check.terms, check.cap) if known is None else replace(known)
        seen.renew(check.terms, check.cap, now_ms)
        return seen

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; `used` includes what is held. A blocked request may fit in the next cycle."""
        cycle = self._seen(check, now_ms)
        wait_ms = 0
        if cycle.blocks(check.amount, now_ms):
            fits_when_new = cycle.terms.grace_ms > 0 or check.amount <= cycle.bound
            wait_ms = cycle.terms.end_ms - now_ms if fits_when_new else -1
        used, reset_ms = cycle.used + cycle.held, cycle.terms.end_ms - now_ms
        look = Look(check.cap, used, cycle.held, reset_ms, wait_ms)
        assert isinstance(check.limit, Quota)
        return check.limit.shown(look, cycle.terms, check.shown)

    def follow(self, now_ms: int) -> None:
        """Nothing: an earlier time finds its own cycle again."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Holds units in the cycle of now, which a first take opens."""
        cycle = self._seen(check, now_ms)
        cycle.held += check.take
        known = self.known(cycle.terms.start_ms)
        if known is not None:
            self.cycles[self.cycles.index(known)] = cycle
        else:
            self._make_room(cycle.terms.start_ms)
            self.cycles.append(cycle)
            self.cycles.sort(key=lambda each: -each.terms.start_ms)
        return self.look(check._replace(amount=0), now_ms)

    def _make_room(self, start_ms: int) -> None:
        """Forgets the oldest cycles when there are too many, up to the first in which a hold is still open."""
        while len(self.cycles) > PAST_CYCLES and self.cycles[-1].terms.start_ms < start_ms and not self.cycles[-1].held:
            self.cycles.pop()

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Charges what was reported, in full, to the cycle that the hold was taken in; nothing is uncollected."""
        assert isinstance(limit, Quota)
        before, after = change.share(taken, change.before), change.share(taken, change.after)
        cycle = self.known(taken.cycle_ms) or self.cycles[-1]
        own = max(taken.amount - before, 0) if change.live else 0
        cycle.held -= min(after - before, own) if change.ending is Ending.REPORT else own
        if after > before:
            cycle.charge(after - before, taken.at_ms, change.now_ms)
        self.crossed += cycle.crossings(limit.thresholds)
        return 0

    def used_in(self, start_ms: int) -> int:
        """Units used and held in the cycle that began there."""
        cycle = self.known(start_ms)
        return cycle.used + cycle.held if cycle is not None else 0

    def settled_in(self, start_ms: int) -> int:
        """Units used in the cycle that began there."""
        cycle = self.known(start_ms)
        return cycle.used if cycle is not None else 0

    def forget(self, start_ms: int) -> int:
        """Counts nothing as used in the cycle that began there, and arms its thresholds again; how much that was. What
        is held stays held.
        """
        cycle = self.known(start_ms)
        if cycle is None:
            return 0
        used = cycle.used
        cycle.within = cycle.overage = cycle.grace = cycle.over_hard = cycle.exhausted_at_ms = cycle.noted = 0
        return used

    def meter(self, check: Check, units: int, now_ms: int, *, over: bool) -> None:
        """Adds what samples came to, or takes it back, and looks at the thresholds. A cycle that is `over` keeps the
        terms that it had.
        """
        assert check.terms is not None
        assert isinstance(check.limit, Quota)
        if not (over and self.known(check.terms.start_ms)):
            self.take(check._replace(take=0), now_ms)
        cycle = self.known(check.terms.start_ms) or self.cycles[-1]
        if units < 0:
            cycle.take_back(-units)
        elif units:
            cycle.charge(units, now_ms, now_ms)
        self.crossed += cycle.crossings(check.limit.thresholds)

    def book(self, check: Check, used: int, now_ms: int) -> None:
        """Adds use that happened elsewhere to the check's cycle; what it crosses, the next settle notes."""
        assert check.terms is not None
        self.take(check._replace(take=0), now_ms)
        cycle = self.known(check.terms.start_ms)
        if cycle is not None and used:
            cycle.charge(used, now_ms, now_ms)

    def is_empty(self, now_ms: int) -> bool:
        """Whether nothing was ever taken here; use is the account's history and is never forgotten."""
        return not self.cycles
