"""Tiers: plans on a ladder of lifetime purchases, with a manual override that counts where it is higher."""

from dataclasses import dataclass
from typing import NamedTuple

from server.domain.account import Account
from server.domain.units import FOREVER_MS


class Tier(NamedTuple):
    """An account's tier: its plan, its place on the ladder from 0, and from when to when (exclusive) it holds."""

    plan: str
    place: int
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Tiers:
    """The ladder: `plans` from the lowest tier up, each with the lifetime purchases from which it is given, in
    millionths of a dollar; the first is given from 0.
    """

    plans: tuple[str, ...]
    from_usd_micros: tuple[int, ...]

    def of(self, account: Account, now_ms: int) -> Tier:
        """The account's tier at this instant: the ladder's, or that of an override while it lasts and is higher."""
        bought = account.lifetime_purchased_usd_micros
        place = max(index for index, bound in enumerate(self.from_usd_micros) if index == 0 or bought >= bound)
        override = account.tier_override
        if override is None or override.plan not in self.plans or self.plans.index(override.plan) <= place:
            return Tier(self.plans[place], place, 0, FOREVER_MS)
        if now_ms >= override.expires_at_ms:
            return Tier(self.plans[place], place, override.expires_at_ms, FOREVER_MS)
        return Tier(override.plan, self.plans.index(override.plan), 0, override.expires_at_ms)
