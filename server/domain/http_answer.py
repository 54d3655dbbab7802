"""The answer in HTTP, ready to forward: the policy's own envelope, or the standards' forms where it asks for them.

A grant adds headers to somebody else's answer. Nearly every answer is a grant, so what a shape's grants have in common
is found once; a policy without headers on grants costs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from server.domain import ietf
from server.domain.limits.base import Kind, Limit, Look
from server.domain.plan import Plan
from server.domain.policy import Envelope
from server.domain.results import LimitResult, Refusal
from server.domain.templates import Field, Format, Template
from server.domain.units import whole_seconds

GRANTED: Final = 200
"""The status under which an envelope has the headers of grants."""

GRANTING: Final = "http.granting"
"""Where a shape's memo has what its grants have in common."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Ready to forward; status 0 and no body on a grant. `body` is JSON as Python values."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, object] | None


class _Granting(NamedTuple):
    """What the grants of a shape have in common: the places of its windows among the checks, and of all limits that
    the standard fields tell of; headers that are one of the tightest window's figures, by its place among `RATES`; the
    templates of others; and what these may name beside figures.
    """

    windows: tuple[int, ...]
    told: tuple[int, ...]
    plain: tuple[tuple[str, int], ...]
    headers: tuple[tuple[str, Template], ...]
    values: Mapping[str, object]


def on_grant(plan: Plan, looks: Sequence[Look]) -> HttpAnswer | None:
    """Headers of a grant, from the figures of the plan's checks; None where there are none to add."""
    envelope = plan.policy.envelope
    if envelope is None or not envelope.tells_grants:
        return None
    shape = plan.shape
    known = shape.memo.get(GRANTING)
    if known is None:
        known = shape.memo[GRANTING] = _granting(plan, envelope)
    granting = cast("_Granting", known)
    headers: dict[str, str] = {}
    figures = _tightest(granting.windows, looks) if granting.windows and looks else None
    if figures is not None:
        for name, place in granting.plain:
            headers[name] = str(figures[place])
    if granting.headers:
        rates = {} if figures is None else dict(zip(RATES, figures, strict=True))
        values = {**granting.values, **rates}
        for name, template in granting.headers:
            if (text := template.text(values)) is not None:
                headers[name] = text
    if granting.told and looks:
        headers |= ietf.fields([(shape.checks[at].limit, looks[at]) for at in granting.told])
    return HttpAnswer(0, headers, None) if headers else None


def _granting(plan: Plan, envelope: Envelope) -> _Granting:
    shape = plan.shape
    windows = tuple(at for at, check in enumerate(shape.checks) if _is_rate(check.limit, envelope))
    if envelope.rate and not windows:
        return _Granting((), (), (), (), {})
    plain: list[tuple[str, int]] = []
    headers: list[tuple[str, Template]] = []
    for name, template in envelope.headers.get(GRANTED, {}).items():
        if (place := _plain(template)) is not None:
            plain.append((name, place))
        elif windows or not template.fields & set(RATES):
            headers.append((name, template))
    told = tuple(at for at, check in enumerate(shape.checks) if ietf.tells(check.limit)) if envelope.ratelimit else ()
    return _Granting(windows, told, tuple(plain), tuple(headers), {**plan_values(plan), **shape.scope})


RATES: Final = ("rate_limit", "rate_remaining", "rate_reset")
"""Fields that only a window fills, in the order of its figures."""


def _plain(template: Template) -> int | None:
    """The place of the one figure that a header is, written as the number that it is; None for any other text."""
    match template.parts:
        case (Field(name, Format.AS_IS | Format.INT),) if name in RATES:
            return RATES.index(name)
    return None


def _is_rate(limit: Limit, envelope: Envelope | None) -> bool:
    """Whether `rate_…` fields may tell of it: each window that counts, or the one that the envelope names."""
    if envelope is not None and envelope.rate:
        return limit.id == envelope.rate
    return limit.kind is Kind.WINDOW and not limit.shadow


def plan_values(plan: Plan) -> dict[str, object]:
    """The fields that tell of the account's plan, and of its place on the ladder where there is one."""
    tiers, name = plan.policy.tiers, plan.account.plan
    return {"plan": name} if tiers is None else {"plan": name, "tier": tiers.plans.index(name)}


def _tightness(look: Look) -> tuple[int, int]:
    """Fewest units left; of equals the one that resets last. It is the window that the client meets next."""
    return max(look.cap - look.used, 0), -look.reset_ms


def _tightest(windows: Sequence[int], looks: Sequence[Look]) -> tuple[int, int, int]:
    """The figures of the tightest of a grant's windows."""
    look = looks[windows[0]] if len(windows) == 1 else min([looks[at] for at in windows], key=_tightness)
    return _figures(look)


def _figures(look: Look) -> tuple[int, int, int]:
    """Limit, units left, seconds to the reset."""
    return look.cap, max(look.cap - look.used, 0), whole_seconds(look.reset_ms)


def rate_values(plan: Plan, results: Iterable[LimitResult]) -> dict[str, object]:
    """Figures of the tightest window; on a refusal a blocking one goes first, by the longest wait."""
    windows = [result for result in results if _is_rate(result.limit, plan.policy.envelope)]
    if not windows:
        return {}
    tightest = min(windows, key=lambda w: (not w.blocking, -w.look.wait_ms, *_tightness(w.look)))
    return dict(zip(RATES, _figures(tightest.look), strict=True))


def on_refusal(plan: Plan, results: Sequence[LimitResult], refusal: Refusal) -> HttpAnswer | None:
    """Status, headers and body of a refusal; None where the policy has no envelope."""
    envelope = plan.policy.envelope
    if envelope is None:
        return None
    retry_after = whole_seconds(refusal.retry_after_ms) if refusal.retry_after_ms is not None else None
    values: dict[str, object] = {
        **plan_values(plan),
        **plan.operation.scope,
        **rate_values(plan, results),
        "code": refusal.code,
        "message": refusal.message,
        "http": refusal.http_status,
        "type": envelope.types.get(refusal.http_status),
        "retry_after": retry_after,
        "retryable": refusal.retryable,
    }
    headers = {
        name: text
        for name, template in envelope.headers.get(refusal.http_status, {}).items()
        if (text := template.text(values)) is not None
    }
    if envelope.ratelimit:
        headers |= ietf.fields(ietf.most_telling(results))
    if envelope.problem:
        headers |= ietf.problem_headers(retry_after)
        return HttpAnswer(refusal.http_status, headers, ietf.problem(refusal, results))
    return HttpAnswer(refusal.http_status, headers, _body(envelope.body, values, refusal.details))


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
