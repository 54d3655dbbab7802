"""Price list: what items cost. Parts of a block are charged in proportion, rounded up once per item."""

from collections.abc import Iterable, Mapping

from server.domain.errors import InvalidRequestError
from server.domain.operation import Item
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT, rounded_up


def price(item: Item, policy: Policy) -> dict[str, int]:
    """Units by meter that one item costs; nothing for a reused one."""
    if item.reused:
        return {}
    product = policy.products[item.product]
    ((meter, quantity),) = item.quantity.items()
    return {name: rounded_up(charge * quantity, product.block[meter]) for name, charge in product.charge.items()}


def total(amounts: Mapping[str, int], items: Iterable[Item], policy: Policy) -> dict[str, int]:
    """What a request asks for by meter: the named amounts, what items measure, and what they cost."""
    sums = dict(amounts)
    for item in items:
        for meter, amount in (*item.quantity.items(), *price(item, policy).items()):
            sums[meter] = sums.get(meter, 0) + amount
    for meter, amount in sums.items():
        if amount > MAX_AMOUNT:
            raise InvalidRequestError.of("items", f"add up to {amount} {meter}; at most 2^53 - 1 are allowed")
    return sums
