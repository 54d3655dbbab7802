"""What comes back: refusals, a server that is away, and the HTTP answer to forward."""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc
from quota.v1 import decision_pb2 as decided

TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503

_QUEUED: Final = decided.Refusal(
    code="queued", message="All places are taken. Please try again shortly.", retryable=True, retry_after_ms=1000
)
"""How a request is refused that would have to wait and does not."""


class Refused(Exception):
    """Some limit blocks; nothing was taken. `decision` has every figure, `decision.refusal` the reason. Where a
    place did not come in time, the outcome is OUTCOME_QUEUED, and the request has left its queue.
    """

    def __init__(self, decision: decided.Decision) -> None:
        reason = decision.refusal if decision.HasField("refusal") else _QUEUED
        super().__init__(f"{reason.code}: {reason.message}")
        self.decision = decision


class QuotaAway(Exception):
    """No decision could be had in time. `code` is the status of the last try."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


class HttpAnswer(NamedTuple):
    """An HTTP answer to forward; on a grant only the headers, for the answer of the work itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def http_answer(decision: decided.Decision) -> HttpAnswer:
    """The policy's own answer where it has an envelope; otherwise a plain one with what the refusal says."""
    if decision.outcome == decided.OUTCOME_GRANTED:
        return HttpAnswer(200, dict(decision.http.headers), b"")
    headers = {"content-type": "application/json"} | dict(decision.http.headers)
    if decision.http.body:
        return HttpAnswer(decision.http.status, headers, decision.http.body.encode())
    refusal = decision.refusal if decision.HasField("refusal") else _QUEUED
    if refusal.HasField("retry_after_ms"):
        headers["retry-after"] = str(-(-refusal.retry_after_ms // 1000))
    body = json.dumps({"error": {"code": refusal.code, "message": refusal.message}}).encode()
    return HttpAnswer(refusal.http_status or TOO_MANY_REQUESTS, headers, body)


def away_answer() -> HttpAnswer:
    """What to tell a user while no decision can be had."""
    body = json.dumps({"error": {"code": "quota_unavailable", "message": "Please try again shortly."}}).encode()
    return HttpAnswer(UNAVAILABLE, {"content-type": "application/json", "retry-after": "1"}, body)
