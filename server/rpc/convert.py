"""Messages of the data plane to domain values and back.

Checked here is what only a message can get wrong: shapes that no domain value has. Ids, amounts and dimensions are
checked behind the gate, which knows the policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import orjson
from google.protobuf import json_format
from quota.v1 import decision_pb2, quota_service_pb2

from server.domain.decision import Decision, HttpAnswer, LimitResult, LimitResults, Refusal
from server.domain.errors import InvalidRequestError
from server.domain.hold import Delivered, Fraction, MeterTotals, State
from server.domain.limit_value import Source
from server.domain.limits import Balance, Gate, Kind, Window
from server.domain.limits.base import Look, QueueLook
from server.domain.operation import Flexible, Item, Operation, TenantRef
from server.domain.policy import Product
from server.domain.units import FOREVER_MS, MAX_AMOUNT, MAX_FRACTION_PARTS, MAX_ITEMS
from server.gate import HoldOutcome
from server.rpc.convert_usage import quota_terms
from server.views import EffectiveLimit

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

_Value = TypeVar("_Value", int, str)

HOLD_STATES: Final = {state: quota_service_pb2.HoldState.Value(f"HOLD_STATE_{state.name}") for state in State}
_KINDS: Final = {kind: decision_pb2.LimitKind.Value(f"LIMIT_KIND_{kind.name}") for kind in Kind}
_SOURCES: Final = {source: quota_service_pb2.ValueSource.Value(f"VALUE_SOURCE_{source.name}") for source in Source}
GRANT: Final = "convert.grant"
"""Where a shape's memo has what its grants have in common."""

_OUTCOMES: Final = {
    "granted": decision_pb2.OUTCOME_GRANTED,
    "queued": decision_pb2.OUTCOME_QUEUED,
    "refused": decision_pb2.OUTCOME_REFUSED,
}
_MODES: Final = quota_service_pb2.Mode.values()
_BEST_EFFORT: Final = quota_service_pb2.MODE_BEST_EFFORT


# Requests


def operation(request: quota_service_pb2.CheckAndReserveRequest) -> Operation:
    """What a CheckAndReserve asks for."""
    mode = request.mode
    if mode not in _MODES:
        raise InvalidRequestError.of("mode", f"is {request.mode}; expected one of the values of quota.v1.Mode")
    return Operation(
        ref=TenantRef(request.policy, request.tenant),
        request_id=request.request_id,
        action=request.action,
        scope=_mapping(request.scope),
        amounts=_mapping(request.amounts),
        items=_items(items) if (items := request.items) else (),
        check_only=mode == quota_service_pb2.MODE_CHECK_ONLY,
        flexible=_flexible(request) if mode == _BEST_EFFORT or request.HasField("flexible") else None,
    )


def _mapping(field: Mapping[str, _Value]) -> dict[str, _Value]:
    """A map as a dict of its own; `dict` itself asks a message's map for more than it needs."""
    return {name: field[name] for name in field}


def _flexible(request: quota_service_pb2.CheckAndReserveRequest) -> Flexible:
    if request.mode != _BEST_EFFORT:
        raise InvalidRequestError.of("flexible", "is for MODE_BEST_EFFORT alone; leave it out, or choose that mode")
    if not request.HasField("flexible"):
        raise InvalidRequestError.of("flexible", "is required with MODE_BEST_EFFORT: which meter, and how few will do")
    if request.wait:
        raise InvalidRequestError.of("wait", "is not for MODE_BEST_EFFORT; leave it out, and ask again with the ticket")
    return Flexible(request.flexible.meter, request.flexible.minimum)


def estimated_operation(request: quota_service_pb2.EstimateRequest) -> Operation:
    """What an Estimate asks about; it takes nothing."""
    return Operation(
        ref=TenantRef(request.policy, request.tenant),
        action=request.action,
        scope=dict(request.scope.items()),
        amounts=dict(request.amounts.items()),
        items=_items(request.items),
        check_only=True,
    )


def _items(items: Iterable[quota_service_pb2.Item]) -> tuple[Item, ...]:
    return tuple(Item(item.id, item.product, dict(item.quantity), item.reused) for item in items)


def delivered(request: quota_service_pb2.SettleRequest) -> Delivered:
    """What a Settle reports: totals, a share, items, or None for nothing said."""
    match request.WhichOneof("delivered"):
        case "usage":
            return dict(request.usage.used)
        case "fraction":
            return _fraction(request.fraction)
        case "items":
            return _delivered_items(request.items.ids)
        case None:
            return None


def _fraction(fraction: quota_service_pb2.Fraction) -> Fraction:
    if not 1 <= fraction.reserved <= MAX_FRACTION_PARTS:
        text = f"is {fraction.reserved}; must be from 1 to {MAX_FRACTION_PARTS}"
        raise InvalidRequestError.of("fraction.reserved", text)
    if not 0 <= fraction.delivered <= fraction.reserved:
        text = f"is {fraction.delivered}; must be from 0 to fraction.reserved, which is {fraction.reserved}"
        raise InvalidRequestError.of("fraction.delivered", text)
    return Fraction(fraction.delivered, fraction.reserved)


def _delivered_items(ids: Sequence[str]) -> tuple[str, ...]:
    if len(ids) > MAX_ITEMS:
        raise InvalidRequestError.of("items.ids", f"has {len(ids)} entries; at most {MAX_ITEMS} are allowed")
    return tuple(ids)


# Answers


# Messages are filled in place: building a part apart and handing it over copies it, at twice the cost.


def fill_reserve(response: quota_service_pb2.CheckAndReserveResponse, decision: Decision) -> None:
    """Fills in the answer to a CheckAndReserve.

    What the grants of a shape have in common is made once, as bytes: to parse them and set the figures costs a third
    of filling everything in.
    """
    results = decision.results
    if not (decision.granted and isinstance(results, LimitResults) and results.are_known):
        fill_decision(response.decision, decision)
        return
    plan = results.plan
    shape = plan.shape
    template = shape.memo.get(GRANT)
    if template is None:
        template = shape.memo[GRANT] = _grant_template(decision)
    response.MergeFromString(template)
    message = response.decision
    _fill_terms(message, decision)
    statuses = message.limits
    if shape.guards:
        for status, guard in zip(statuses, plan.guards, strict=False):
            _fill_figures(status, guard.look)
    for place, look in enumerate(results.looks, start=len(shape.guards) + len(shape.gates)):
        _fill_figures(statuses[place], look)
    amounts = message.amounts
    for name, amount in decision.amounts.items():
        amounts[name] = amount


def _grant_template(decision: Decision) -> bytes:
    """A grant without figures, amounts and lease."""
    response = quota_service_pb2.CheckAndReserveResponse()
    message = response.decision
    message.outcome = decision_pb2.OUTCOME_GRANTED
    message.policy_version = decision.policy_version
    for result in decision.results:
        _fill_identity(message.limits.add(), result)
    return response.SerializeToString()


def _fill_terms(message: decision_pb2.Decision, decision: Decision) -> None:
    if decision.replayed:
        message.replayed = True
    if decision.degraded:
        message.degraded = True
    if (lease := decision.lease) is not None:
        message.hold_id = lease.hold_id
        if lease.expires_in_ms is not None:
            message.expires_in_ms = lease.expires_in_ms
        if lease.renew_after_ms is not None:
            message.renew_after_ms = lease.renew_after_ms
    if decision.http is not None:
        _fill_http(message.http, decision.http)


def _fill_identity(message: decision_pb2.LimitStatus, result: LimitResult) -> None:
    """Which limit it is, and for which dimensions."""
    limit = result.limit
    message.id = limit.id
    message.kind = _KINDS[limit.kind]
    message.meter = limit.meter
    if result.scope:
        message.scope.update(result.scope)
    if limit.shadow:
        message.shadow = True


def _fill_figures(message: decision_pb2.LimitStatus, look: Look) -> None:
    """The figures of a limit that has a bound."""
    cap, used, held, reset_ms, _ = look
    message.used = used
    if cap < MAX_AMOUNT:
        message.limit = cap
        message.remaining = cap - used if cap > used else 0
    if held:
        message.held = held
    if reset_ms >= 0:
        message.reset_after_ms = reset_ms
    elif isinstance(look, QueueLook):
        message.queued, message.queue_limit = look.queued, look.queue_cap


def fill_decision(message: decision_pb2.Decision, decision: Decision) -> None:
    """Fills in the decision as it travels."""
    message.outcome = _OUTCOMES[decision.outcome]
    if decision.position:
        message.position = decision.position
    message.policy_version = decision.policy_version
    _fill_terms(message, decision)
    fill_limits(message.limits, decision.results)
    if decision.refusal is not None:
        _fill_refusal(message.refusal, decision.refusal)
    message.amounts.update(decision.amounts)


def fill_limits(
    messages: "RepeatedCompositeFieldContainer[decision_pb2.LimitStatus]", results: Iterable[LimitResult]
) -> None:
    """Adds limits with their figures, in order."""
    for result in results:
        _fill_limit(messages.add(), result)


def _fill_limit(message: decision_pb2.LimitStatus, result: LimitResult) -> None:
    _fill_identity(message, result)
    if result.limit.kind is not Kind.GATE:
        _fill_figures(message, result.look)
    if result.blocking:
        message.blocking = True
        if result.look.wait_ms > 0 and not result.hopeless:
            message.retry_after_ms = result.look.wait_ms


def _fill_refusal(message: decision_pb2.Refusal, refusal: Refusal) -> None:
    message.code = refusal.code
    message.http_status = refusal.http_status
    message.message = refusal.message
    message.retryable = refusal.retryable
    if refusal.retry_after_ms is not None:
        message.retry_after_ms = refusal.retry_after_ms
    message.estimated = refusal.estimated
    message.limit_id = refusal.limit_id
    json_format.ParseDict(dict(refusal.details), message.details)


def _fill_http(message: decision_pb2.HttpAnswer, answer: HttpAnswer) -> None:
    message.status = answer.status
    message.headers.update(answer.headers)
    if answer.body is not None:
        message.body = orjson.dumps(answer.body).decode()


def fill_outcome(
    response: quota_service_pb2.SettleResponse | quota_service_pb2.ReleaseResponse, outcome: HoldOutcome
) -> None:
    """Fills in what a settle or release came to."""
    response.state = HOLD_STATES[outcome.state]
    response.applied = outcome.applied
    fill_meters(response.meters, outcome.meters)


def fill_meters(
    messages: "RepeatedCompositeFieldContainer[quota_service_pb2.MeterOutcome]", meters: Mapping[str, MeterTotals]
) -> None:
    """Adds a hold's meters, by name."""
    for meter, (reserved, reported, uncollected) in sorted(meters.items()):
        message = messages.add()
        message.meter = meter
        message.reserved = reserved
        message.used = reported or 0
        message.uncollected = uncollected


def item_prices(prices: Iterable[tuple[str, Mapping[str, int]]]) -> list[quota_service_pb2.ItemPrice]:
    """Items with what each would cost, in the request's order."""
    return [quota_service_pb2.ItemPrice(id=item_id, amounts=price) for item_id, price in prices]


def effective_limit(effective: EffectiveLimit) -> quota_service_pb2.EffectiveLimit:
    """A limit as it stands for one tenant."""
    limit, value = effective.limit, effective.value
    valued = not isinstance(limit, (Gate, Balance))
    ends = value.source is Source.OVERRIDE and value.until_ms != FOREVER_MS
    return quota_service_pb2.EffectiveLimit(
        id=limit.id,
        kind=_KINDS[limit.kind],
        meter=limit.meter,
        scope=limit.scope,
        value=value.value if valued else None,
        source=_SOURCES[value.source],
        window_ms=limit.window_ms if isinstance(limit, Window) else None,
        override_ends_in_ms=value.until_ms - effective.now_ms if ends else None,
        actions=sorted(limit.actions or ()),
        shadow=limit.shadow,
        terms=quota_terms(effective.terms) if effective.terms is not None else None,
    )


def product_prices(products: Iterable[Product]) -> list[quota_service_pb2.ProductPrice]:
    """The price list, in the policy's order."""
    return [
        quota_service_pb2.ProductPrice(
            product=product.name,
            block=product.block,
            charge=product.charge,
            by=product.by,
            tiers={value: quota_service_pb2.Charge(charge=charge) for value, charge in product.charges.items()},
        )
        for product in products
    ]
