"""RateLimit headers, by the drafts of the IETF, and problem+json: one wording for all gateways."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import orjson

from server.domain.decision import Decision, LimitResult
from server.domain.limits.base import Kind
from server.domain.units import whole_seconds

MOST_NAMED: Final = 2
"""Limits that are named where none blocks: the tightest."""

_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_MS_PER_S: Final = 1000


class HeaderVersion(StrEnum):
    """How the headers are spelt."""

    DRAFT_03 = "draft-03"
    """X-RateLimit-Limit, -Remaining, -Reset."""

    DRAFT_10 = "draft-10"
    """RateLimit-Policy and RateLimit, as structured fields."""


def ratelimit_headers(decision: Decision, version: HeaderVersion) -> dict[str, str]:
    """What a client may know of its limits; Retry-After with a refusal that waiting clears.

    Balances and gates are nobody's business but the refusal's. Empty where no other limit was looked at.
    """
    shown = _shown(decision.results)
    headers = _draft_03(shown) if version is HeaderVersion.DRAFT_03 else _draft_10(shown)
    wait_ms = decision.refusal.retry_after_ms if decision.refusal else None
    if wait_ms is not None:
        headers["Retry-After"] = str(max(whole_seconds(wait_ms), 1))
    return headers


def http_answer(decision: Decision) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for a client: those of the policy's envelope, else problem+json; 200 on a grant. One
    that waits in a queue is told when to ask again.
    """
    told = decision.http
    headers = dict(told.headers) if told else {}
    if decision.position:  # a proxy cannot wait with its client, who is to ask again
        again_ms = (decision.lease.renew_after_ms or 0) if decision.lease else 0
        return HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(max(whole_seconds(again_ms), 1))}, b""
    if decision.refusal is None:
        return 200, headers, b""
    if told is not None and told.body is not None:
        return told.status, {"Content-Type": "application/json", **headers}, orjson.dumps(told.body)
    headers = {"Content-Type": "application/problem+json", **headers}
    return decision.refusal.http_status, headers, problem(decision)


def problem(decision: Decision) -> bytes:
    """A refusal as application/problem+json."""
    refusal = decision.refusal
    if refusal is None:
        return b""
    blocking = [result.limit.id for result in decision.results if result.blocking]
    return orjson.dumps(
        {
            "type": _PROBLEM,
            "title": refusal.message,
            "status": refusal.http_status,
            "code": refusal.code,
            "violated-policies": blocking,
        }
    )


def _shown(results: Sequence[LimitResult]) -> list[LimitResult]:
    """The limits that block; where none does, the tightest."""
    told = [r for r in results if r.limit.kind not in {Kind.GATE, Kind.GUARD, Kind.BALANCE} and not r.limit.shadow]
    blocking = [result for result in told if result.blocking]
    return blocking or sorted(told, key=lambda result: result.remaining)[:MOST_NAMED]


def _window_s(result: LimitResult) -> int | None:
    window_ms: int | None = getattr(result.limit, "window_ms", None)
    return None if window_ms is None else whole_seconds(window_ms)


def _wait_s(result: LimitResult) -> int | None:
    """Seconds until something remains again; never less than a client that is refused has to wait."""
    wait_ms = result.look.wait_ms if result.blocking else result.look.reset_ms
    return whole_seconds(wait_ms) if wait_ms >= 0 else None


def _draft_03(shown: Sequence[LimitResult]) -> dict[str, str]:
    windows = [result for result in shown if _window_s(result) is not None]
    if not windows:
        return {}
    first = windows[0]
    policies = [f'{result.look.cap};w={_window_s(result)};name="{result.limit.id}"' for result in windows]
    headers = {
        "X-RateLimit-Limit": ", ".join([str(first.look.cap), *policies]),
        "X-RateLimit-Remaining": str(first.remaining),
    }
    if (reset_s := _wait_s(first)) is not None:
        headers["X-RateLimit-Reset"] = str(reset_s)
    return headers


def _draft_10(shown: Sequence[LimitResult]) -> dict[str, str]:
    if not shown:
        return {}
    return {
        "RateLimit-Policy": ", ".join(_item(r, {"q": r.look.cap, "w": _window_s(r), "qu": _unit(r)}) for r in shown),
        "RateLimit": ", ".join(
            _item(r, {"r": r.remaining, "t": _wait_s(r) if _window_s(r) is not None else None}) for r in shown
        ),
    }


def _unit(result: LimitResult) -> str | None:
    return "concurrent-requests" if result.limit.kind is Kind.SLOTS else None


def _item(result: LimitResult, parameters: Mapping[str, int | str | None]) -> str:
    """A limit as a structured field's item; its id has no character that would need escaping."""
    told = (
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}"
        for key, value in parameters.items()
        if value is not None
    )
    return ";".join([f'"{result.limit.id}"', *told])
