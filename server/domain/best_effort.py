"""BEST_EFFORT: one flexible meter, of which less than asked for will do, down to a stated minimum.

What a unit of it costs must be a whole number in every meter, so that how many units fit follows from what each limit
has left.
"""

from collections.abc import Mapping

from server.domain.decision import Decision
from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.limits.base import Kind
from server.domain.limits.quota import Quota
from server.domain.operation import Flexible, Item, Operation
from server.domain.policy import Policy
from server.domain.pricing import total
from server.domain.results import LimitResult, LimitResults


def asked(operation: Operation, policy: Policy) -> tuple[Operation, Mapping[str, int]]:
    """The validated operation under its final fingerprint, and what a unit of its flexible meter costs in each meter.

    Raises InvalidRequestError where it cannot be flexible.
    """
    flexible = operation.flexible
    assert flexible is not None  # noqa: S101  # nothing else is asked so
    costs = _costs(operation, policy, flexible)
    most = units_of(operation)
    if not 1 <= flexible.minimum <= most:
        text = f"is {flexible.minimum}; must be from 1 to what is asked for, which is {most}"
        raise InvalidRequestError.of("flexible.minimum", text)
    return operation._replace(flexible=flexible._replace(fingerprint=operation.fingerprint())), costs


def _costs(operation: Operation, policy: Policy, flexible: Flexible) -> dict[str, int]:
    meter = flexible.meter
    measured = [(index, item) for index, item in enumerate(operation.items) if meter in item.quantity]
    known = policy.meters.get(meter)
    if known is None or known.per_request or (meter in operation.amounts) + len(measured) != 1:
        text = f"is {meter!r}; must be a meter that the amounts name, or that exactly one item is measured in"
        raise InvalidRequestError.of("flexible.meter", text)
    costs = {meter: 1}
    for index, item in measured:
        for name, units in _charge(item, operation, policy).items():
            block = policy.products[item.product].block[meter]
            if units % block:
                text = f"costs {units} {name} for {block} {meter}; MODE_BEST_EFFORT needs a whole number for each"
                raise InvalidRequestError([FieldViolation(f"items[{index}].product", text)])
            costs[name] = costs.get(name, 0) + units // block
    return costs


def _charge(item: Item, operation: Operation, policy: Policy) -> Mapping[str, int]:
    charge = policy.products[item.product].charge_for(operation.action, operation.scope)
    return {} if item.reused or charge is None or policy.actions[operation.action].free else charge


def units_of(operation: Operation) -> int:
    """How many units of its flexible meter the operation asks for."""
    assert operation.flexible is not None  # noqa: S101  # as above
    meter = operation.flexible.meter
    if meter in operation.amounts:
        return operation.amounts[meter]
    return next(item.quantity[meter] for item in operation.items if meter in item.quantity)


def asking(operation: Operation, units: int) -> Operation:
    """The same request for so many units of its flexible meter."""
    assert operation.flexible is not None  # noqa: S101  # as above
    meter = operation.flexible.meter
    if meter in operation.amounts:
        return operation._replace(amounts={**operation.amounts, meter: units})
    items = (
        Item(item.id, item.product, {meter: units}, item.reused) if meter in item.quantity else item
        for item in operation.items
    )
    return operation._replace(items=tuple(items))


def fitting(refused: Decision, operation: Operation, costs: Mapping[str, int]) -> int:
    """How many units would have fitted where the operation did not; 0 where fewer would not help."""
    units = most = units_of(operation)
    for result in refused.results:
        if result.blocking:
            cost = costs.get(result.limit.meter, 0)
            if not cost or operation.action in result.limit.room:
                return 0
            others = result.amount - cost * units
            most = min(most, (_left(result, refused) - others) // cost)
    return max(most, 0)


def _left(result: LimitResult, decision: Decision) -> int:
    """Units that a request may still ask for; of a quota, its overage with them."""
    overage = 0
    if isinstance(result.limit, Quota) and isinstance(decision.results, LimitResults):
        checks = decision.results.plan.shape.checks
        overage = next(c.terms.overage for c in checks if c.limit is result.limit and c.terms is not None)
    used = 0 if result.limit.kind is Kind.GUARD else result.look.used
    return max(result.look.cap + overage - used, 0)


def as_taken(decision: Decision, operation: Operation, policy: Policy, costs: Mapping[str, int]) -> Decision:
    """An answer with all amounts that were taken; that to a repeat tells those that its hold keeps."""
    whole = total(operation, policy)
    for meter, cost in costs.items():
        if meter in decision.amounts:
            others = whole[meter] - cost * units_of(operation)
            units = (decision.amounts[meter] - others) // cost
            return decision._replace(amounts={**total(asking(operation, units), policy), **decision.amounts})
    return decision
