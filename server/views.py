"""What the gate tells of a tenant beside decisions: figures, cycles, limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.domain.decision import LimitResult
from server.domain.limits.base import CycleTerms, Limit
from server.domain.limits.quota import CycleUse
from server.domain.plan import Plan, Value
from server.domain.policy import Product
from server.domain.projection import Projection, run_rate
from server.engine.base import Cycles


@dataclass(frozen=True, slots=True)
class QuotaView:
    """The cycles of one quota at `now_ms`: the current one, by the terms of now, and others, the latest first."""

    limit: Limit
    scope: Mapping[str, str]
    current: CycleUse
    past: Sequence[CycleUse]
    now_ms: int

    @property
    def projection(self) -> Projection | None:
        """What the current cycle will come to; None while it is too young to tell."""
        terms = self.current.terms
        return run_rate(self.current.used, self.current.limit, (terms.start_ms, terms.end_ms), self.now_ms)


@dataclass(frozen=True, slots=True)
class UsageView:
    """Current figures of a tenant's limits, and the cycles of its quotas."""

    results: Sequence[LimitResult]
    policy_version: str
    quotas: Sequence[QuotaView]


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


def quota_views(plan: Plan, answer: Cycles) -> list[QuotaView]:
    """Each quota's cycles, apart into the current one and all others: an account whose creation date was changed, or a
    clock that went back, leaves some that overlap it or come after it, and none of their use is kept back.
    """
    views: list[QuotaView] = []
    checks = [check for check in plan.checks if check.terms is not None]
    for check, known in zip(checks, answer.cycles, strict=True):
        terms = check.terms
        assert terms is not None  # noqa: S101  # as chosen above
        same = [cycle for cycle in known if cycle.terms.start_ms == terms.start_ms]
        current = same[0] if same else CycleUse(terms, check.cap)
        current.renew(terms, check.cap, answer.now_ms)
        past = [cycle for cycle in known if cycle.terms.start_ms != terms.start_ms]
        scope = dict(zip(check.limit.scope, check.scope, strict=True))
        views.append(QuotaView(check.limit, scope, current, past, answer.now_ms))
    return views
