"""What the page shows of one tenant, gathered from the use cases."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from server.administration import Administration
from server.domain.decision import LimitResult
from server.domain.hold import HoldView
from server.domain.ledger import LedgerEntry
from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef
from server.domain.units import MAX_AMOUNT
from server.gate import QuotaGate
from server.views import EffectiveLimit, QuotaView

AMBER_FROM: Final = 80
RED_FROM: Final = 95
"""From which percent of an allowance its bar has which colour."""

MOST_HOLDS: Final = 20
MOST_ENTRIES: Final = 20


class Colour(Enum):
    """How near to its end something is."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Notice:
    """The banner: the quota that has come furthest among those that have reached a threshold."""

    quota: QuotaView
    percent: int
    threshold: int

    @property
    def level(self) -> str:
        """yellow, then amber, then red: the last of a quota's thresholds is red from 100 percent on."""
        if self.threshold >= 100:  # noqa: PLR2004  # percent
            return "red"
        return "amber" if self.threshold >= RED_FROM else "yellow"


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """All of one tenant at about one time."""

    ref: TenantRef
    scope: Mapping[str, str]
    plan: str
    policy_version: str
    now_ms: int
    results: Sequence[LimitResult]
    quotas: Sequence[QuotaView]
    limits: Sequence[EffectiveLimit]
    holds: Sequence[HoldView]
    more_holds: bool
    ledger: Sequence[LedgerEntry]
    limit_ids: Mapping[str, str]

    @property
    def notice(self) -> Notice | None:
        """What the banner tells; None while no quota has reached a threshold."""
        reached = [notice for view in self.quotas if (notice := _notice(view)) is not None]
        return max(reached, key=lambda notice: notice.percent, default=None)

    @property
    def other_results(self) -> Sequence[LimitResult]:
        """Figures of what is no quota and has some."""
        return [result for result in self.results if not isinstance(result.limit, Quota) and result.limit.cell]


async def tenant_figures(
    gate: QuotaGate, administration: Administration, ref: TenantRef, scope: Mapping[str, str], within_s: float
) -> TenantFigures:
    """Asks for everything at once; raises a HoldgateError."""
    _, ref = gate.resolve(ref)
    accounting = administration.accounting
    usage, limits, (holds, next_hold), ledger = await asyncio.gather(
        gate.usage(ref, scope, within_s=within_s),
        gate.limits(ref, within_s=within_s),
        administration.list_holds(ref, MOST_HOLDS, "", within_s=within_s),
        accounting.latest(ref, MOST_ENTRIES, within_s=within_s),
    )
    return TenantFigures(
        ref=ref,
        scope=scope,
        plan=limits.plan,
        policy_version=usage.policy_version,
        now_ms=limits.now_ms,
        results=usage.results,
        quotas=usage.quotas,
        limits=limits.limits,
        holds=holds,
        more_holds=bool(next_hold),
        ledger=ledger,
        limit_ids=accounting.limit_ids(ref),
    )


def percent_of(used: int, allowance: int) -> int | None:
    """The share that is used, rounded down; None where there is nothing to be a share of."""
    return used * 100 // allowance if 0 < allowance < MAX_AMOUNT else None


def colour_of(percent: int) -> Colour:
    """The colour of a bar."""
    if percent >= RED_FROM:
        return Colour.RED
    return Colour.AMBER if percent >= AMBER_FROM else Colour.GREEN


def _notice(view: QuotaView) -> Notice | None:
    percent = percent_of(view.current.used, view.current.limit)
    if percent is None or not isinstance(view.limit, Quota):
        return None
    reached = [threshold for threshold in view.limit.thresholds if threshold <= percent]
    return Notice(view, percent, reached[-1]) if reached else None
