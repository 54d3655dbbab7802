"""The answer: what was decided, why, and what to tell the caller and the caller's user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from server.domain.limits import PRECEDENCE
from server.domain.limits.base import Kind, Limit, Look
from server.domain.limits.gate import Gate
from server.domain.limits.slots import Slots
from server.domain.plan import Plan
from server.domain.policy import Policy, RefusalRule
from server.domain.templates import Template
from server.domain.units import MAX_AMOUNT, whole_seconds


class LimitResult(NamedTuple):
    """One limit with its figures; `wait_ms` as in `Look`, with the estimate filled in for slots."""

    limit: Limit
    scope: Mapping[str, str]
    amount: int
    look: Look

    @property
    def blocking(self) -> bool:
        """Whether it alone was reason to refuse."""
        return not self.look.fits and not self.limit.shadow

    @property
    def remaining(self) -> int:
        """Units left, never below 0."""
        return max(self.look.cap - self.look.used, 0)

    @property
    def hopeless(self) -> bool:
        """Whether the request could never fit, however long the caller waits."""
        return self.limit.kind in {Kind.WINDOW, Kind.SLOTS} and self.amount > self.look.cap


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not: the binding blocker's code and words, and how long waiting takes if it helps at all."""

    code: str
    http_status: int
    message: str
    retryable: bool
    retry_after_ms: int | None
    estimated: bool
    limit_id: str
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Ready to forward; status 0 and no body on a grant. `body` is JSON as Python values."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, object] | None


class Lease(NamedTuple):
    """A hold as its caller sees it; times are None where there is nothing to renew."""

    hold_id: str
    expires_in_ms: int | None = None
    renew_after_ms: int | None = None


class Decision(NamedTuple):
    """What CheckAndReserve, Extend and Estimate answer."""

    granted: bool
    policy_version: str
    results: Sequence[LimitResult]
    amounts: Mapping[str, int]
    lease: Lease | None = None
    replayed: bool = False
    refusal: Refusal | None = None
    http: HttpAnswer | None = None

    def having(self, amounts: Mapping[str, int], lease: Lease | None) -> "Decision":
        """The same answer about a hold that keeps these amounts."""
        return self._replace(amounts=amounts, lease=lease)


class LimitResults(Sequence[LimitResult]):
    """All limits of a plan with their figures, guards and gates first; each is made when it is asked for.

    `looks` are those of `plan.checks`, in order; empty when they are no longer known, and then there are no results.
    """

    __slots__ = ("_made", "looks", "plan")

    def __init__(self, plan: Plan, looks: Sequence[Look]) -> None:
        self.plan = plan
        self.looks = looks
        self._made: tuple[LimitResult, ...] | None = None

    @property
    def are_known(self) -> bool:
        """Whether there are figures for every check of the plan."""
        return len(self.looks) == len(self.plan.shape.checks)

    def _all(self) -> tuple[LimitResult, ...]:
        if self._made is None:
            self._made = _results(self.plan, self.looks) if self.are_known else ()
        return self._made

    @overload
    def __getitem__(self, index: int) -> LimitResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LimitResult, ...]: ...
    def __getitem__(self, index: int | slice) -> LimitResult | tuple[LimitResult, ...]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())


def _results(plan: Plan, looks: Sequence[Look]) -> tuple[LimitResult, ...]:
    stateless = [
        LimitResult(limit, _named_scope(limit, plan), look.used, look) for limit, look in (*plan.guards, *plan.gates)
    ]
    counted = [
        LimitResult(check.limit, _named_scope(check.limit, plan), check.amount, _with_estimate(check.limit, look))
        for check, look in zip(plan.checks, looks, strict=True)
    ]
    return (*stateless, *counted)


def _named_scope(limit: Limit, plan: Plan) -> Mapping[str, str]:
    return {name: plan.operation.scope[name] for name in limit.scope}


def _with_estimate(limit: Limit, look: Look) -> Look:
    if isinstance(limit, Slots) and look.wait_ms < 0 and limit.typical_ms:
        return look._replace(wait_ms=limit.typical_ms)
    return look


def grant(plan: Plan, looks: Sequence[Look], lease: Lease | None, *, replayed: bool = False) -> Decision:
    """A grant with its figures; a replay whose figures are no longer known has none."""
    results = LimitResults(plan, looks)
    http = _http(plan, results, None)
    return Decision(
        granted=True,
        policy_version=plan.policy.version,
        results=results,
        amounts=plan.amounts,
        lease=lease,
        replayed=replayed,
        http=http,
    )


def refuse(plan: Plan, looks: Sequence[Look]) -> Decision:
    """A refusal that names every blocker. When a guard fails, only failed guards are reported."""
    if plan.guarded:
        failed = tuple(guard for guard in plan.guards if not guard.look.fits)
        results: Sequence[LimitResult] = tuple(
            LimitResult(limit, _named_scope(limit, plan), look.used, look) for limit, look in failed
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
        http=_http(plan, results, refusal),
    )


def _refusal(plan: Plan, results: Sequence[LimitResult]) -> Refusal:
    blockers = [result for result in results if result.blocking]
    binding = min(blockers, key=lambda result: _rank(plan.policy, result))
    rules = [plan.policy.refusals[blocker.limit.refuse] for blocker in blockers]
    retryable = all(rule.retryable for rule in rules) and not any(blocker.hopeless for blocker in blockers)
    waits = [blocker.look.wait_ms for blocker in blockers]
    retry_after_ms = max(waits) if retryable and min(waits) > 0 else None
    rule = plan.policy.refusals[binding.limit.refuse]
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
    first = order.index(result.limit.refuse) if order else PRECEDENCE.index(result.limit.kind)
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
        **_rate_values(results),
        "code": rule.code,
        "http": rule.http_status,
        "limit_name": limit.label,
        "limit_id": limit.id,
        "meter": limit.meter,
        "limit": look.cap,
        "used": look.used,
        "held": look.held,
        "remaining": binding.remaining,
        "have": binding.remaining,
        "needed": binding.amount,
        "retry_after": whole_seconds(retry_after_ms) if retry_after_ms is not None else None,
        "plan": plan.account.plan,
        "tenant": plan.operation.ref.tenant,
        "action": plan.operation.action,
    }
    if isinstance(limit, Gate) and limit.of:
        allowed = limit.allowed(plan.account)
        values |= {"requested": plan.operation.scope.get(limit.of), "allowed": allowed[-1] if allowed else None}
    return values


def _rate_values(results: Sequence[LimitResult]) -> dict[str, object]:
    """Figures of the tightest window: a blocking one with the longest wait, else the fewest left, then the
    longest reset. It is the one that the client meets next.
    """
    windows = [result for result in results if result.limit.kind is Kind.WINDOW and not result.limit.shadow]
    if not windows:
        return {}
    tightest = min(windows, key=lambda w: (not w.blocking, -w.look.wait_ms, w.remaining, -w.look.reset_ms))
    return {
        "rate_limit": tightest.look.cap,
        "rate_remaining": tightest.remaining,
        "rate_reset": whole_seconds(tightest.look.reset_ms),
    }


def _text(template: Template, values: Mapping[str, object]) -> str:
    rendered = template.render(values)
    return "" if rendered is None else str(rendered)


def _http(plan: Plan, results: Sequence[LimitResult], refusal: Refusal | None) -> HttpAnswer | None:
    envelope = plan.policy.envelope
    if envelope is None:
        return None
    status = refusal.http_status if refusal else 200
    if refusal is None and status not in envelope.headers:
        return None
    values: dict[str, object] = {"plan": plan.account.plan, **plan.operation.scope, **_rate_values(results)}
    if refusal is not None:
        retry_after = whole_seconds(refusal.retry_after_ms) if refusal.retry_after_ms is not None else None
        values |= {
            "code": refusal.code,
            "message": refusal.message,
            "http": status,
            "type": envelope.types.get(status),
            "retry_after": retry_after,
            "retryable": refusal.retryable,
        }
    headers = {
        name: str(value)
        for name, template in envelope.headers.get(status, {}).items()
        if (value := template.render(values)) is not None
    }
    if refusal is None:
        return HttpAnswer(0, headers, None) if headers else None
    return HttpAnswer(status, headers, _body(envelope.body, values, refusal.details))


def _body(
    shape: Mapping[str, object], values: Mapping[str, object], details: Mapping[str, object]
) -> dict[str, object]:
    body: dict[str, object] = {}
    for key, part in shape.items():
        if key == "+":
            body |= details
        elif isinstance(part, Template):
            if (value := part.render(values)) is not None:
                body[key] = value
        elif isinstance(part, Mapping):
            body[key] = _body(part, values, details)
    return body


__all__ = ["Decision", "HttpAnswer", "Lease", "LimitResult", "LimitResults", "Refusal", "grant", "refuse"]
