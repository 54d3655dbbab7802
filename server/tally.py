"""Counts what the gate decides."""

from server.domain.decision import Decision, LimitResult
from server.domain.operation import Operation
from server.domain.policy import Policy
from server.engine.base import HoldOutcome
from server.metrics.metrics import Metrics


class DecisionCount:
    """Decisions by outcome and code, refusals by limit, what could not be collected."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shadowed: dict[str, tuple[str, bool]] = {}

    def decided(self, policy: Policy, operation: Operation, decision: Decision) -> None:
        """Counts one decision."""
        refusal = decision.refusal
        if refusal is None:
            outcome = "would_grant" if operation.check_only else "replayed" if decision.replayed else "granted"
            self._metrics.decisions.add(policy.name, outcome, "")
        else:
            outcome = "would_refuse" if operation.check_only else "refused"
            self._metrics.decisions.add(policy.name, outcome, refusal.code)
            for limit in {result.limit.id for result in decision.results if result.blocking}:
                self._metrics.refusals.add(policy.name, limit)
        if self._has_shadows(policy) and not decision.replayed:
            for limit in {result.limit.id for result in decision.results if _shadowed(result)}:
                self._metrics.shadow_refusals.add(policy.name, limit)

    def collected(self, policy: Policy, outcome: HoldOutcome) -> None:
        """Counts what a final settle could not collect."""
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
