"""What the page shows of one tenant, gathered from the use cases."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from server.administration import Administration
from server.domain.decision import LimitResult
from server.domain.hold import HoldView
from server.domain.ledger import LedgerEntry, Totals
from server.domain.limits.balance import Balance, Marks
from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef
from server.domain.policy import BannerRule
from server.domain.reconcile import BalanceState
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
class LowBalance:
    """A banner of a balance that had units, of which `left` are left, with those that open holds keep: it has fallen to
    `mark`, the lowest of `marks` that it has reached.
    """

    limit: Balance
    left: int
    mark: int
    marks: Marks

    @property
    def level(self) -> str:
        """yellow, then amber at the lowest mark, and red when nothing is left."""
        if not self.left:
            return "red"
        return "amber" if self.mark == self.marks[-1] else "yellow"


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
    balances: Sequence[tuple[Balance, BalanceState]] = ()
    available: bool = True
    worded: bool = False
    banner: BannerRule | None = None
    """Balances with thresholds; whether use is shown at all; whether the policy has banners of its own, and the one of
    them that is due.
    """

    @property
    def notice(self) -> Notice | None:
        """What the banner tells where the policy has no words for it; None while no quota has reached a threshold."""
        if self.worded:
            return None
        reached = [notice for view in self.quotas if (notice := _notice(view)) is not None]
        return max(reached, key=lambda notice: notice.percent, default=None)

    @property
    def low_balances(self) -> Sequence[LowBalance]:
        """Balances that have fallen to a mark, in the policy's order; none where use is not shown."""
        if not self.available:
            return ()
        low = (_low_balance(limit, state.totals, self.plan) for limit, state in self.balances)
        return [one for one in low if one is not None]

    @property
    def other_results(self) -> Sequence[LimitResult]:
        """Figures of what is no quota and has some."""
        return [result for result in self.results if not isinstance(result.limit, Quota) and result.limit.cell]


async def tenant_figures(
    gate: QuotaGate, administration: Administration, ref: TenantRef, scope: Mapping[str, str], within_s: float
) -> TenantFigures:
    """Asks for everything at once; raises a HoldgateError."""
    policy, ref = gate.resolve(ref)
    accounting = administration.accounting
    usage, limits, (holds, next_hold), ledger, balances = await asyncio.gather(
        gate.usage(ref, scope, within_s=within_s),
        gate.limits(ref, within_s=within_s),
        administration.list_holds(ref, MOST_HOLDS, "", within_s=within_s),
        accounting.latest(ref, MOST_ENTRIES, within_s=within_s),
        accounting.watched(ref, within_s=within_s),
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
        balances=balances,
        available=usage.available,
        worded=bool(policy.usage.banners),
        banner=usage.banner[0] if usage.banner is not None else None,
    )


def percent_of(used: int, allowance: int) -> int | None:
    """The share that is used, rounded down; None where there is nothing to be a share of."""
    return used * 100 // allowance if 0 < allowance < MAX_AMOUNT else None


def colour_of(percent: int) -> Colour:
    """The colour of a bar."""
    if percent >= RED_FROM:
        return Colour.RED
    return Colour.AMBER if percent >= AMBER_FROM else Colour.GREEN


def _low_balance(limit: Balance, totals: Totals, plan: str) -> LowBalance | None:
    marks = limit.marks(plan)
    reached = [mark for mark in marks if totals.left <= mark and totals.granted]
    return LowBalance(limit, totals.left, reached[-1], marks) if reached else None


def _notice(view: QuotaView) -> Notice | None:
    percent = view.percent
    if percent is None:
        return None
    reached = [threshold for threshold in view.limit.thresholds if threshold <= percent]
    return Notice(view, percent, reached[-1]) if reached else None
