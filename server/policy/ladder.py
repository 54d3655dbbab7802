"""The YAML form of tiers: a ladder of plans, each with the lifetime purchases from which it is given."""

from collections.abc import Mapping

from server.domain.policy import Unit
from server.domain.tiers import Tiers
from server.policy.context import Context
from server.policy.document import Path, shown
from server.policy.schema import PolicyModel

_PATH: Path = ("tiers",)


def compile_tiers(context: Context, model: PolicyModel) -> Tiers | None:
    """The ladder, from its lowest step up; None for a policy with plans."""
    if model.tiers is None:
        return None
    if model.plans:
        context.reject(("plans",), "the tiers are the plans; leave `plans` out")
    bounds = _bounds(context, model.tiers)
    if next(iter(bounds.values())) != 0:
        context.reject(_PATH, "the first tier is given from $0; say so, lowest tier first")
    for lower, higher in zip(list(bounds), list(bounds)[1:], strict=False):
        if bounds[lower] >= bounds[higher]:
            context.reject((*_PATH, higher), f"is not above {shown(lower)}; tiers stand from the lowest up")
    for index, limit in enumerate(model.limits):
        if getattr(limit, "refill", None) is not None:
            context.reject(("limits", index, "refill"), "a refill needs plans; tiers change by themselves")
    return Tiers(tuple(bounds), tuple(bounds.values()))


def _bounds(context: Context, written: Mapping[str, int | str]) -> dict[str, int]:
    return {name: context.amount((*_PATH, name), bound, Unit.MONEY) for name, bound in written.items()}
