"""Usage and notifications as messages."""

from collections.abc import Iterable
from typing import Final

from quota.v1 import admin_service_pb2, quota_service_pb2

from server.domain.limits.base import CycleTerms
from server.domain.limits.quota import CycleUse, QuotaState
from server.domain.policy import BannerRule
from server.domain.projection import Confidence, Method, Projection
from server.domain.units import MAX_AMOUNT
from server.notices import Notification
from server.views import QuotaView

_STATES: Final = {state: quota_service_pb2.QuotaState.Value(f"QUOTA_STATE_{state.name}") for state in QuotaState}

_METHODS: Final = {
    method: quota_service_pb2.ProjectionMethod.Value(f"PROJECTION_METHOD_{method.name}") for method in Method
}
_CONFIDENCES: Final = {
    confidence: quota_service_pb2.ProjectionConfidence.Value(f"PROJECTION_CONFIDENCE_{confidence.name}")
    for confidence in Confidence
}


def quota_usages(views: Iterable[QuotaView]) -> list[quota_service_pb2.QuotaUsage]:
    """The cycles of each quota, in the policy's order."""
    return [
        quota_service_pb2.QuotaUsage(
            limit_id=view.limit.id,
            meter=view.limit.meter,
            scope=view.scope,
            current=_cycle(view.current, view.now_ms),
            past=[_cycle(cycle, cycle.terms.end_ms - 1) for cycle in view.past],
            projection=_projection(view.projection),
            percent=view.percent,
            bar=view.bar,
        )
        for view in views
    ]


def banner(due: tuple[BannerRule, str] | None) -> quota_service_pb2.Banner | None:
    """The banner that is due, if any."""
    if due is None:
        return None
    rule, limit_id = due
    return quota_service_pb2.Banner(percent=rule.percent, level=rule.level, text=rule.text, limit_id=limit_id)


def _projection(projection: Projection | None) -> quota_service_pb2.Projection | None:
    if projection is None:
        return None
    return quota_service_pb2.Projection(
        used=projection.used,
        method=_METHODS[projection.method],
        confidence=_CONFIDENCES[projection.confidence],
        exhausted_at_ms=projection.exhausted_at_ms,
    )


def _cycle(cycle: CycleUse, at_ms: int) -> quota_service_pb2.CycleUsage:
    return quota_service_pb2.CycleUsage(
        starts_at_ms=cycle.terms.start_ms,
        ends_at_ms=cycle.terms.end_ms,
        allowance=cycle.limit if cycle.limit < MAX_AMOUNT else None,
        accepted=cycle.used,
        held=cycle.held,
        within=cycle.within,
        overage=cycle.overage,
        grace=cycle.grace,
        over_hard=cycle.over_hard,
        overage_usd_micros=cycle.overage_price,
        exhausted_at_ms=cycle.exhausted_at_ms or None,
        grace_ends_at_ms=cycle.grace_ends_at_ms,
        state=_STATES[cycle.state(at_ms)],
    )


def quota_terms(terms: CycleTerms) -> quota_service_pb2.QuotaTerms:
    """A quota's cycle and what it allows beyond its limit."""
    return quota_service_pb2.QuotaTerms(
        cycle_starts_at_ms=terms.start_ms,
        cycle_ends_at_ms=terms.end_ms,
        overage=terms.overage if terms.overage < MAX_AMOUNT else None,
        price_usd_micros=terms.price,
        grace_ms=terms.grace_ms,
    )


def notification(told: Notification) -> admin_service_pb2.Notification:
    """What people are to be told."""
    note, limit_id, scope = told
    if note.mark is not None:
        return admin_service_pb2.Notification(
            id=note.note_id,
            kind=admin_service_pb2.NOTIFICATION_KIND_LOW_BALANCE,
            at_ms=note.at_ms,
            limit_id=limit_id,
            threshold=note.mark,
            left=note.left,
        )
    return admin_service_pb2.Notification(
        id=note.note_id,
        kind=admin_service_pb2.NOTIFICATION_KIND_THRESHOLD,
        at_ms=note.at_ms,
        limit_id=limit_id,
        scope=scope,
        cycle_starts_at_ms=note.cycle_ms,
        percent=note.percent,
        limit=note.limit,
        used=note.used,
    )
