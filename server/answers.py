"""What an engine found, in the words of a decision."""

from collections.abc import Mapping

from server.domain.account import Account
from server.domain.decision import Decision, Lease, grant, queued, refuse, unblocked
from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.hold import HoldNote, HoldView, State
from server.domain.limit_value import value_in
from server.domain.limits.base import QUEUES, QueueLook
from server.domain.operation import Operation, TenantRef, differing_parts
from server.domain.plan import Plan
from server.domain.policy import Policy
from server.engine.base import Extended, Looked, Queued, Refused, Replayed, Stale
from server.engine.faults import id_reused, left_queue
from server.engine.queues import Claimed


def totals_of(policy: Policy, account: Account, now_ms: int) -> dict[str, int]:
    """The figures for show: of each, the largest value of its limits."""
    limits = {limit.id: limit for limit in policy.limits}
    return {
        name: max(value_in(policy, limits[each], account, now_ms).value or 0 for each in of)
        for name, of in policy.totals.items()
    }


def lease_of(hold_id: str, lease_ends_at_ms: int, now_ms: int, lease_ms: int) -> Lease | None:
    """The hold as its caller sees it; to be renewed after a third of the lease."""
    if not hold_id:
        return None
    if not lease_ends_at_ms:
        return Lease(hold_id=hold_id)
    expires_in_ms = max(lease_ends_at_ms - now_ms, 0)
    return Lease(hold_id=hold_id, expires_in_ms=expires_in_ms, renew_after_ms=min(lease_ms // 3, expires_in_ms))


def would(plan: Plan, looked: Looked) -> Decision:
    """What the plan would be answered, from figures that took nothing."""
    blocked = any(
        look.wait_ms not in {0, QUEUES} and not c.limit.shadow
        for c, look in zip(plan.checks, looked.looks, strict=True)
    )
    if plan.guarded or plan.gated or blocked:
        return refuse(plan, looked.looks)
    waits = next((look for look in looked.looks if isinstance(look, QueueLook) and look.wait_ms == QUEUES), None)
    if waits is not None:
        return queued(plan, looked.looks, None, waits.queued + 1)
    return grant(plan, looked.looks, None)


def not_granted(plan: Plan, hold_id: str, answer: Refused | Replayed | Queued | Stale) -> Decision | Stale:
    """The answer of a reserve that took nothing now; one that must be planned again has none yet."""
    match answer:
        case Refused():
            return refuse(plan, answer.looks)
        case Replayed():
            return replayed_answer(plan, answer)
        case Queued():
            return waits_at(plan, hold_id, answer)
        case Stale():
            return answer


def must_be_same(plan: Plan, hold: HoldView) -> None:
    """Raises where a hold was made by another request."""
    differs = differing_parts(hold.fingerprint, plan.operation.fingerprint())
    if differs:
        raise id_reused(hold.hold_id, differs)


def replayed_answer(plan: Plan, known: Replayed) -> Decision:
    """The first answer again, if the content is equal."""
    now_ms, hold, looks, degraded = known
    must_be_same(plan, hold)
    if hold.state is State.LEFT:
        raise left_queue(hold)
    live = hold.lease_ends_at_ms if hold.state is State.ACTIVE else 0
    lease = lease_of(hold.hold_id, live, now_ms, hold.lease_ms)
    if plan.operation.flexible is None:
        return grant(plan, looks, lease, replayed=True, degraded=degraded)
    return grant(plan, (), lease, replayed=True, degraded=degraded).having(reserved_of(hold), lease)


def waits_at(plan: Plan, hold_id: str, known: Queued, hold: HoldView | None = None) -> Decision:
    """The answer of a request that waits, `hold` if it did before; a third of its ticket's time is a good time to ask
    again.
    """
    lease = Lease(hold_id, known.lasts_ms, known.lasts_ms // 3)
    answer = queued(plan, known.looks, lease, known.position, replayed=hold is not None)
    return answer if hold is None else answer.having(_kept(plan, hold), lease)


def claimed(plan: Plan, known: Claimed) -> Decision:
    """The grant that a request which waited has now, or the answer that it had before."""
    hold = known.hold
    if not known.looks:
        return replayed_answer(plan, Replayed(known.now_ms, hold, ()))
    lease = lease_of(hold.hold_id, hold.lease_ends_at_ms, known.now_ms, hold.lease_ms)
    return grant(plan, tuple(map(unblocked, known.looks)), lease).having(_kept(plan, hold), lease)


def extended(plan: Plan, answer: Extended) -> Decision:
    """The answer of a renewal, about all that the hold keeps."""
    reserved = reserved_of(answer.hold)
    lease = lease_of(answer.hold.hold_id, answer.hold.lease_ends_at_ms, answer.now_ms, answer.hold.lease_ms)
    if answer.raised:
        return grant(plan, answer.looks, lease, degraded=answer.degraded).having(reserved, lease)
    if not plan.guarded:  # a guard bounds the total; what else blocks, lacks room for the difference
        named = zip(plan.shape.names, plan.units, strict=True)
        plan = plan._replace(units=tuple(max(units - reserved.get(meter, 0), 0) for meter, units in named))
    return refuse(plan, answer.looks).having(reserved, lease)


def reserved_of(hold: HoldView) -> Mapping[str, int]:
    """The amounts that a hold keeps, by meter."""
    return {meter: totals.reserved for meter, totals in hold.meters.items()}


def _kept(plan: Plan, hold: HoldView) -> Mapping[str, int]:
    """The amounts of a request whose hold was made before; what was asked for is no witness where less would do."""
    return reserved_of(hold) if plan.operation.flexible is not None else {**plan.amounts, **reserved_of(hold)}


def operation_of(ref: TenantRef, note: HoldNote, amounts: Mapping[str, int], policy: Policy) -> Operation:
    """The request of a hold with new totals."""
    if note.action not in policy.actions:
        message = f"the hold's action {note.action!r} is no longer in policy {policy.name!r}"
        raise InvalidRequestError.of("hold_id", message)
    return Operation(ref=ref, action=note.action, scope=note.scope, amounts=amounts)


def must_be_scope(scope: Mapping[str, str], hold: HoldView | None) -> None:
    """Raises where a caller takes a hold for another one's; a hold that is not there is the engine's to tell."""
    if hold is None:
        return
    made = {name: hold.note.scope.get(name, "") for name in scope}
    bad = [
        FieldViolation(f"scope[{name}]", f"is {value!r}; hold {hold.hold_id!r} was made with {made[name]!r}")
        for name, value in scope.items()
        if made[name] != value
    ]
    if bad:
        raise InvalidRequestError(bad)
