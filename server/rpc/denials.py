"""A refusal as a status, for callers whose libraries know nothing else (google.rpc.QuotaFailure and its companions)."""

import re
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from server.domain.decision import Decision, LimitResult, Refusal
from server.domain.limits.base import Kind

DOMAIN: Final = "quota.v1"
"""The domain of every ErrorInfo."""

_MOST_REASON: Final = 63
"""Longest reason of an ErrorInfo."""

_NOT_IN_REASONS: Final = re.compile(r"[^A-Z0-9]+")


class Denied(Exception):
    """A refusal whose caller asked for a status; no fault of anybody."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def status_of(decision: Decision, tenant: str) -> Status:
    """RESOURCE_EXHAUSTED with the limits that block; RetryInfo only where waiting helps."""
    refusal = decision.refusal
    if refusal is None:
        raise ValueError("the decision is a grant")
    status = Status(code=StatusCode.RESOURCE_EXHAUSTED.value[0], message=refusal.message)
    blocking = [_violation(result, tenant) for result in decision.results if result.blocking]
    status.details.add().Pack(QuotaFailure(violations=blocking))
    if refusal.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(refusal.retry_after_ms)
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    status.details.add().Pack(_info(refusal))
    return status


def _violation(result: LimitResult, tenant: str) -> QuotaFailure.Violation:
    counted = result.limit.kind is not Kind.GATE
    return QuotaFailure.Violation(
        subject=f"tenant:{tenant}",
        description=f"{result.look.used} of {result.look.cap} used" if counted else "the account does not allow it",
        api_service=DOMAIN,
        quota_metric=result.limit.meter or result.limit.kind.name.lower(),
        quota_id=result.limit.id,
        quota_dimensions=dict(result.scope),
        quota_value=result.look.cap if counted else 0,
    )


def _info(refusal: Refusal) -> ErrorInfo:
    reason = _NOT_IN_REASONS.sub("_", refusal.code.upper()).strip("_")[:_MOST_REASON]
    metadata = {"limit_id": refusal.limit_id, "code": refusal.code, "http_status": str(refusal.http_status)}
    if refusal.retry_after_ms is not None:
        metadata |= {"retry_after_ms": str(refusal.retry_after_ms), "estimated": str(refusal.estimated).lower()}
    return ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
