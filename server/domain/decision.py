"""The answer: what was decided, why, and what to tell the caller and the caller's user."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from server.domain.http_answer import HttpAnswer, on_grant, on_refusal, plan_values, rate_values
from server.domain.limits import PRECEDENCE
from server.domain.limits.base import Kind, Look, QueueLook
from server.domain.limits.gate import Gate
from server.domain.limits.quota import Quota
from server.domain.plan import Plan
from server.domain.policy import Policy, RefusalRule
from server.domain.results import LimitResult, LimitResults, Refusal, named_scope
from server.domain.templates import Template
from server.domain.units import MAX_AMOUNT, whole_seconds


class Lease(NamedTuple):
    """A hold as its caller sees it; times are None where there is nothing to renew."""

    hold_id: str
    expires_in_ms: int | None = None
    renew_after_ms: int | None = None


class Decision(NamedTuple):
    """What CheckAndReserve, Extend and Estimate answer; `position` is that of a request which waits, else 0."""

    granted: bool
    policy_version: str
    results: Sequence[LimitResult]
    amounts: Mapping[str, int]
    lease: Lease | None = None
    replayed: bool = False
    refusal: Refusal | None = None
    http: HttpAnswer | None = None
    degraded: bool = False
    position: int = 0

    @property
    def outcome(self) -> str:
        """What it is, in one word."""
        return "granted" if self.granted else "queued" if self.position else "refused"

    def having(self, amounts: Mapping[str, int], lease: Lease | None) -> "Decision":
        """The same answer about a hold that keeps these amounts."""
        return self._replace(amounts=amounts, lease=lease)


def grant(
    plan: Plan, looks: Sequence[Look], lease: Lease | None, *, replayed: bool = False, degraded: bool = False
) -> Decision:
    """A grant with its figures; a replay whose figures are no longer known has none, and neither has a degraded one."""
    return Decision(
        granted=True,
        policy_version=plan.policy.version,
        results=LimitResults(plan, looks),
        amounts=plan.amounts,
        lease=lease,
        replayed=replayed,
        http=on_grant(plan, looks),
        degraded=degraded,
    )


def queued(
    plan: Plan, looks: Sequence[Look], lease: Lease | None, position: int, *, replayed: bool = False
) -> Decision:
    """The answer of a request that waits in a queue, at this position from 1; nothing refuses it."""
    return Decision(
        granted=False,
        policy_version=plan.policy.version,
        results=LimitResults(plan, tuple(map(unblocked, looks))),
        amounts=plan.amounts,
        lease=lease,
        replayed=replayed,
        position=position,
    )


def unblocked(look: Look) -> Look:
    """The figures of a limit that no longer stands in the way."""
    return look.unblocked() if isinstance(look, QueueLook) else look._replace(wait_ms=0)


def refuse(plan: Plan, looks: Sequence[Look]) -> Decision:
    """A refusal that names every blocker. When a guard fails, only failed guards are reported."""
    if plan.guarded:
        failed = tuple(guard for guard in plan.guards if not guard.look.fits)
        results: Sequence[LimitResult] = tuple(
            LimitResult(limit, named_scope(limit, plan), look.used, look) for limit, look in failed
        )
    else:
        results = LimitResults(plan, looks)
    refusal = _refusal(plan, results)
    return Decision(
        granted=False,
        policy_version=plan.policy.version,
        results=results,
        amounts=plan.amounts,
        refusal=refusal,
        http=on_refusal(plan, results, refusal),
    )


def _refusal(plan: Plan, results: Sequence[LimitResult]) -> Refusal:
    blockers = [result for result in results if result.blocking]
    binding = min(blockers, key=lambda result: _rank(plan.policy, result))
    rules = [plan.policy.refusals[blocker.code] for blocker in blockers]
    retryable = all(rule.retryable for rule in rules) and not any(blocker.hopeless for blocker in blockers)
    waits = [blocker.look.wait_ms for blocker in blockers]
    retry_after_ms = max(waits) if retryable and min(waits) > 0 else None
    rule = plan.policy.refusals[binding.code]
    values = _values(plan, results, binding, rule, retry_after_ms)
    details = {name: value for name, field in rule.fields.items() if (value := field.render(values)) is not None}
    return Refusal(
        code=rule.code,
        http_status=rule.http_status,
        message=_text(rule.message, values),
        retryable=retryable,
        retry_after_ms=retry_after_ms,
        estimated=retry_after_ms is not None and any(b.limit.kind is Kind.SLOTS for b in blockers),
        limit_id=binding.limit.id,
        details=details,
    )


def _rank(policy: Policy, result: LimitResult) -> tuple[int, int]:
    """The lowest rank gives the code: the policy's order of codes or the order of kinds, then the longest wait;
    a limit that cannot say how long counts as the longest. Ties go to the policy's order, as min() is stable.
    """
    order = policy.precedence
    first = order.index(result.code) if order else PRECEDENCE.index(result.limit.kind)
    return first, -(result.look.wait_ms if result.look.wait_ms > 0 else MAX_AMOUNT)


def _values(
    plan: Plan,
    results: Sequence[LimitResult],
    binding: LimitResult,
    rule: RefusalRule,
    retry_after_ms: int | None,
) -> dict[str, object]:
    """What the templates of a refusal may name; see docs/policies.md."""
    limit, look = binding.limit, binding.look
    values: dict[str, object] = {
        **plan.operation.scope,
        **rate_values(plan, results),
        "code": rule.code,
        "http": rule.http_status,
        "limit_name": binding.label,
        "limit_id": limit.id,
        "meter": limit.meter,
        "limit": look.cap,
        "used": look.used,
        "held": look.held,
        "remaining": binding.remaining,
        "have": binding.remaining,
        "needed": binding.amount,
        "retry_after": whole_seconds(retry_after_ms) if retry_after_ms is not None else None,
        **plan_values(plan),
        "tenant": plan.operation.ref.tenant,
        "action": plan.operation.action,
    }
    if isinstance(limit, Gate) and limit.of:
        allowed = limit.allowed(plan.account)
        values |= {"requested": plan.operation.scope.get(limit.of), "allowed": allowed[-1] if allowed else None}
    if isinstance(look, QueueLook):
        values |= {"queued": look.queued, "queue_limit": look.queue_cap}
    if isinstance(limit, Quota):
        values["reset_at"] = next(
            check.terms.end_ms for check in plan.shape.checks if check.limit is limit and check.terms is not None
        )
    return values


def _text(template: Template, values: Mapping[str, object]) -> str:
    rendered = template.render(values)
    return "" if rendered is None else str(rendered)


__all__ = ["Decision", "HttpAnswer", "Lease", "LimitResult", "LimitResults", "Refusal", "grant", "refuse"]
