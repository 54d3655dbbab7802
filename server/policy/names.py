"""The YAML form of what a policy says about requests themselves: known values, the catalog, usual requests, totals."""

from types import MappingProxyType

from server.domain.catalog import Catalog
from server.policy.context import Context
from server.policy.document import Path, shown
from server.policy.schema import PolicyModel


def compile_known(context: Context, model: PolicyModel) -> dict[str, frozenset[str]]:
    """The values of those dimensions that have no others."""
    context.expect_known(("known",), model.known, context.dimensions, "dimension")
    return {name: frozenset(values) for name, values in model.known.items()}


def compile_catalog(context: Context, model: PolicyModel) -> Catalog | None:
    """The catalog, with an entry for each value and each of its aliases."""
    catalog = model.catalog
    if catalog is None:
        return None
    path: Path = ("catalog",)
    context.expect_known((*path, "of"), [catalog.of], context.dimensions, "dimension")
    context.expect_known((*path, "closed"), catalog.closed, context.actions, "action")
    entries: dict[str, MappingProxyType[str, str]] = {}
    for value, entry in catalog.values.items():
        at = (*path, "values", value)
        context.expect_known((*at, "scope"), entry.scope, context.dimensions - {catalog.of}, "other dimension")
        for name in (value, *entry.aliases):
            if name in entries:
                context.reject(at, f"{shown(name)} stands for something else already; names are unique")
            entries[name] = MappingProxyType({**entry.scope, catalog.of: value})
    return Catalog(catalog.of, MappingProxyType(entries), frozenset(catalog.closed))


def compile_usual(context: Context, model: PolicyModel) -> dict[str, tuple[str, dict[str, int]]]:
    """By action, the product and quantity that a request is about which names nothing."""
    usual: dict[str, tuple[str, dict[str, int]]] = {}
    for name, action in model.actions.items():
        if action.usual is None:
            continue
        path: Path = ("actions", name, "usual")
        context.expect_known((*path, "product"), [action.usual.product], model.prices, "product")
        quantity = {
            meter: context.positive((*path, "quantity", meter), amount, context.meter((*path, "quantity"), meter).unit)
            for meter, amount in action.usual.quantity.items()
        }
        price = model.prices.get(action.usual.product)
        if len(quantity) != 1 or (price is not None and not quantity.keys() <= price.per.keys()):
            context.reject((*path, "quantity"), "expected one of the meters that measure the product")
        usual[name] = action.usual.product, quantity
    return usual


def compile_totals(context: Context, model: PolicyModel) -> dict[str, tuple[str, ...]]:
    """By name, the limits of which the largest value is shown."""
    ids = [limit.id for limit in model.limits]
    for name, of in model.totals.items():
        context.expect_known(("totals", name), of, ids, "limit")
    return {name: tuple(of) for name, of in model.totals.items()}
