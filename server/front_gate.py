"""The gate as callers meet it: who may not ask about a tenant is turned away, what is decided is counted."""

from collections.abc import Callable
from typing import Final

from server.domain.decision import Decision, LimitResult
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan
from server.domain.policy import Policy
from server.engine.base import Engine, HoldOutcome
from server.engine.queues import Claimed
from server.gate import QuotaGate
from server.metrics.metrics import Metrics
from server.policy.store import PolicyStore

_MS_PER_SECOND: Final = 1000


class FrontGate(QuotaGate):
    """Counts decisions by outcome and code, refusals by limit, what could not be collected. `permit` raises where the
    call under way may not be about a tenant.
    """

    def __init__(
        self,
        policies: PolicyStore,
        engine: Engine,
        *,
        trusted: Callable[[], str],
        permit: Callable[[TenantRef], None],
        metrics: Metrics,
    ) -> None:
        super().__init__(policies, engine, trusted=trusted)
        self._permit = permit
        self._metrics = metrics
        self._shadowed: dict[str, tuple[str, bool]] = {}

    def resolve(self, ref: TenantRef, *, every: bool = False) -> tuple[Policy, TenantRef]:
        """As in the gate, if the caller may; about all of a policy's who may ask about any."""
        policy, ref = super().resolve(ref, every=every)
        self._permit(ref)
        return policy, ref

    def _decided(self, policy: Policy, operation: Operation, decision: Decision) -> None:
        refusal = decision.refusal
        if refusal is None:
            outcome = "would_grant" if operation.check_only else "replayed" if decision.replayed else decision.outcome
            self._metrics.decisions.add(policy.name, outcome, "")
        else:
            outcome = "would_refuse" if operation.check_only else "refused"
            self._metrics.decisions.add(policy.name, outcome, refusal.code)
            for limit in {result.limit.id for result in decision.results if result.blocking}:
                self._metrics.refusals.add(policy.name, limit)
        if self._has_shadows(policy) and not decision.replayed:
            for limit in {result.limit.id for result in decision.results if _shadowed(result)}:
                self._metrics.shadow_refusals.add(policy.name, limit)

    def claimed(self, plan: Plan, known: Claimed) -> Decision:
        """The answer of a request that waited; how long, counts once, when it takes its place."""
        if known.looks:
            waited_s = (known.now_ms - known.hold.created_at_ms) / _MS_PER_SECOND
            for check in plan.checks:
                if check.queue is not None:
                    self._metrics.queue_wait.took(waited_s, plan.policy.name, check.limit.id)
        return super().claimed(plan, known)

    def _settled(self, policy: Policy, outcome: HoldOutcome) -> None:
        for meter, totals in outcome.meters.items():
            if totals.uncollected:
                self._metrics.uncollected.add(policy.name, meter, by=totals.uncollected)

    def _has_shadows(self, policy: Policy) -> bool:
        """Whether any limit is a shadow: most policies have none, and then nothing is looked for."""
        version, found = self._shadowed.get(policy.name, ("", False))
        if version != policy.version:
            found = any(limit.shadow for limit in policy.limits)
            self._shadowed[policy.name] = policy.version, found
        return found


def _shadowed(result: LimitResult) -> bool:
    return result.limit.shadow and not result.look.fits
