"""What the standards ask for: `RateLimit` and `RateLimit-Policy` fields, and problem details.

The fields follow draft-ietf-httpapi-ratelimit-headers-10, which a policy names as `ratelimit: ietf-10`; another draft
is another name beside it. Problem details are those of RFC 9457 with the draft's problem type.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from server.domain.limits.base import Kind, Limit, Look
from server.domain.limits.quota import Quota
from server.domain.limits.window import Window
from server.domain.results import LimitResult, Refusal
from server.domain.units import MAX_AMOUNT, rounded_up, whole_seconds

QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The type of a problem that a limit with figures makes."""

_TOLD: Final = frozenset({Kind.WINDOW, Kind.SLOTS, Kind.QUOTA})
_MOST: Final = 2
"""Limits that the fields tell of when none blocks: more would only make headers long."""

_MS_PER_SECOND: Final = 1000


def tells(limit: Limit) -> bool:
    """Whether the fields may tell of a limit: never of money, nor of what refuses nobody."""
    return limit.kind in _TOLD and not limit.shadow


def most_telling(results: Iterable[LimitResult]) -> list[tuple[Limit, Look]]:
    """The limits that block, or all that may be told of where none does."""
    told = [result for result in results if tells(result.limit)]
    blocking = [result for result in told if result.blocking]
    return [(result.limit, result.look) for result in blocking or told]


def fields(told: Sequence[tuple[Limit, Look]]) -> dict[str, str]:
    """Both fields, of the limits of which the smallest part is left; none of unlimited ones."""
    bounded = [(limit, look) for limit, look in told if look.cap < MAX_AMOUNT]
    nearest = sorted(bounded, key=lambda pair: _left(pair[1]) / max(pair[1].cap, 1))[:_MOST]
    if not nearest:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{limit.id}";q={look.cap}{_span(limit)}' for limit, look in nearest),
        "RateLimit": ", ".join(f'"{limit.id}";r={_left(look)}{_reset(look)}' for limit, look in nearest),
    }


def _left(look: Look) -> int:
    return max(look.cap - look.used, 0)


def _span(limit: Limit) -> str:
    """The window in seconds where there is one, and the unit where it is not requests."""
    if isinstance(limit, Window):
        unit = "" if limit.meter == "requests" else f';qu="{limit.meter}"'
        return f";w={rounded_up(limit.window_ms, _MS_PER_SECOND)}{unit}"
    if isinstance(limit, Quota):
        return f';qu="{limit.meter}"'
    return ';qu="concurrent-requests"'


def _reset(look: Look) -> str:
    return f";t={whole_seconds(look.reset_ms)}" if look.reset_ms >= 0 else ""


def problem_headers(retry_after_s: int | None) -> dict[str, str]:
    """What goes with a problem's body."""
    retry = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return {"Content-Type": "application/problem+json", **retry}


def problem(refusal: Refusal, results: Iterable[LimitResult]) -> dict[str, object]:
    """A refusal as problem details: the policy's code and fields are members of their own."""
    violated = [result.limit.id for result in results if result.blocking and tells(result.limit)]
    if violated:
        kind, title = QUOTA_EXCEEDED, "A quota is exceeded"
    else:
        kind, title = "about:blank", _phrase(refusal.http_status)
    about: dict[str, object] = {
        "type": kind,
        "title": title,
        "status": refusal.http_status,
        "detail": refusal.message,
        "code": refusal.code,
        "retryable": refusal.retryable,
    }
    if violated:
        about["violated-policies"] = violated
    return {**refusal.details, **about}


def _phrase(status: int) -> str:
    """The status's own words; RFC 9110 has a client take an unknown one for the x00 of its class."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return HTTPStatus(status // 100 * 100).phrase
