"""What the gate tells of a tenant beside decisions: figures, cycles, limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from server.domain.account import Account
from server.domain.decision import LimitResult, LimitResults
from server.domain.limit_value import Value
from server.domain.limits.base import CycleTerms, Limit
from server.domain.limits.quota import CycleUse, Quota
from server.domain.plan import Plan
from server.domain.policy import BannerRule, Product, UsageRule
from server.domain.projection import Projection, run_rate
from server.domain.units import MAX_AMOUNT
from server.engine.base import Cycles


@dataclass(frozen=True, slots=True)
class QuotaView:
    """The cycles of one quota at `now_ms`: the current one, by the terms of now, and others, the latest first. All are
    in the unit that people read; `percent` of the allowance is exact, rounded down, and `bar` its level.
    """

    limit: Quota
    scope: Mapping[str, str]
    current: CycleUse
    past: Sequence[CycleUse]
    now_ms: int
    percent: int | None
    bar: str

    @property
    def projection(self) -> Projection | None:
        """What the current cycle will come to; None while it is too young to tell."""
        terms = self.current.terms
        return run_rate(self.current.used, self.current.limit, (terms.start_ms, terms.end_ms), self.now_ms)


@dataclass(frozen=True, slots=True)
class UsageView:
    """Current figures of a tenant's limits, the cycles of its quotas, and the banner that is due, with its quota's id.
    Nothing of it is there where the policy does not show use: then it is not `available`.
    """

    policy_version: str
    results: Sequence[LimitResult] = ()
    quotas: Sequence[QuotaView] = ()
    banner: tuple[BannerRule, str] | None = None
    available: bool = True


@dataclass(frozen=True, slots=True)
class EffectiveLimit:
    """A limit as it stands for one tenant at `now_ms`; a quota has `terms`."""

    limit: Limit
    value: Value
    now_ms: int
    terms: CycleTerms | None = None


@dataclass(frozen=True, slots=True)
class LimitsView:
    """Which limits apply to a tenant at `now_ms`, and the price list."""

    now_ms: int
    plan: str
    limits: tuple[EffectiveLimit, ...]
    products: tuple[Product, ...]
    policy_version: str
    totals: Mapping[str, int] = field(default_factory=dict)


def usage_view(plan: Plan, answer: Cycles) -> UsageView:
    """What is told of a tenant's use."""
    rule, version = plan.policy.usage, plan.policy.version
    if not rule.visible:
        return UsageView(version, available=False)
    quotas = quota_views(plan, answer)
    return UsageView(version, LimitResults(plan, answer.looks), quotas, _banner(rule, plan.account, quotas))


def _banner(rule: UsageRule, account: Account, quotas: Sequence[QuotaView]) -> tuple[BannerRule, str] | None:
    """The banner of the quota with the highest percentage, of those that have thresholds."""
    watched = [view for view in quotas if view.percent is not None and view.limit.thresholds]
    if not watched or account.flags.get(rule.banner_unless):
        return None
    highest = max(watched, key=lambda view: view.percent or 0)
    banner = rule.banner(highest.percent or 0)
    return (banner, highest.limit.id) if banner is not None else None


def quota_views(plan: Plan, answer: Cycles) -> list[QuotaView]:
    """Each quota's cycles, apart into the current one and all others: an account whose creation date was changed, or a
    clock that went back, leaves some that overlap it or come after it, and none of their use is kept back.
    """
    views: list[QuotaView] = []
    checks = [check for check in plan.checks if check.terms is not None]
    for check, known in zip(checks, answer.cycles, strict=True):
        terms, quota = check.terms, check.limit
        assert terms is not None  # noqa: S101  # as chosen above
        assert isinstance(quota, Quota)  # noqa: S101  # only quotas have terms
        same = [cycle for cycle in known if cycle.terms.start_ms == terms.start_ms]
        current = same[0] if same else CycleUse(terms, check.cap)
        current.renew(terms, check.cap, answer.now_ms)
        past = [quota.readable(cycle) for cycle in known if cycle.terms.start_ms != terms.start_ms]
        scope = dict(zip(quota.scope, check.scope, strict=True))
        percent = current.used * 100 // current.limit if 0 < current.limit < MAX_AMOUNT else None
        bar = plan.policy.usage.bar(percent) if percent is not None else ""
        shown = replace(quota.readable(current), limit=check.shown)
        views.append(QuotaView(quota, scope, shown, past, answer.now_ms, percent, bar))
    return views
