"""Price list: what items cost. Parts of a block are charged in proportion, rounded up once per item."""

from server.domain.errors import InvalidRequestError
from server.domain.operation import Item, Operation
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT, rounded_up


def price(item: Item, operation: Operation, policy: Policy) -> dict[str, int]:
    """Units by meter that one item of a validated operation costs; nothing for a reused one or under a free action."""
    product = policy.products[item.product]
    charge = product.charge_for(operation.action, operation.scope)
    if item.reused or charge is None or policy.actions[operation.action].free:
        return {}
    ((meter, quantity),) = item.quantity.items()
    return {name: rounded_up(units * quantity, product.block[meter]) for name, units in charge.items()}


def total(operation: Operation, policy: Policy) -> dict[str, int]:
    """What a request asks for by meter: the named amounts, what items measure, and what they cost."""
    sums = dict(operation.amounts)
    for item in operation.items:
        for meter, amount in (*item.quantity.items(), *price(item, operation, policy).items()):
            sums[meter] = sums.get(meter, 0) + amount
    for meter, amount in sums.items():
        if amount > MAX_AMOUNT:
            raise InvalidRequestError.of("items", f"add up to {amount} {meter}; at most 2^53 - 1 are allowed")
    return sums
