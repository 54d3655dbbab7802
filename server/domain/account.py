"""One tenant's record, as it stands at some version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from server.domain.units import FOREVER_MS


@dataclass(frozen=True, slots=True)
class Override:
    """A limit's value for one account, in base units, until `expires_at_ms` (exclusive)."""

    limit_id: str
    value: int
    expires_at_ms: int = FOREVER_MS


@dataclass(frozen=True, slots=True)
class TierOverride:
    """A tier that operators give an account, until `expires_at_ms` (exclusive); it counts where it is the higher."""

    plan: str
    expires_at_ms: int = FOREVER_MS


@dataclass(frozen=True, slots=True)
class Account:
    """What gates and limit values are derived from; balances and counters are no part of it.

    `version` 0 stands for a tenant without a stored record, who gets the policy's default plan. Where the policy has
    tiers, `plan` is stored empty: it follows from the other fields at each decision.
    """

    plan: str
    created_at_ms: int = 0
    flags: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    overrides: tuple[Override, ...] = ()
    lifetime_purchased_usd_micros: int = 0
    version: int = 0
    tier_override: TierOverride | None = None

    def on(self, plan: str) -> "Account":
        """The same account on this plan."""
        return Account(
            plan,
            self.created_at_ms,
            self.flags,
            self.overrides,
            self.lifetime_purchased_usd_micros,
            self.version,
            self.tier_override,
        )

    @property
    def flags_key(self) -> tuple[tuple[str, bool], ...]:
        """The flags as something that can be compared and hashed."""
        return tuple(sorted(self.flags.items())) if self.flags else ()
