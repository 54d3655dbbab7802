"""The YAML form of `guard`."""

from typing import Literal

from server.domain.limits.guard import Guard
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import LimitModel
from server.policy.model import Name, PlanAmount


class GuardModel(LimitModel):
    """A bound on one request: at most `limit` units of `meter`."""

    kind: Literal["guard"]
    meter: Name
    limit: PlanAmount

    def compile(self, context: Context, path: Path) -> Guard:
        """The guard, its bound in base units."""
        meter = context.meter((*path, "meter"), self.meter)
        bound = context.plan_values((*path, "limit"), self.limit, meter.unit)
        return Guard(**self.rule(context, path), meter=meter.name, values=bound)

    def fills(self, context: Context) -> fields.Fills:
        """The bound and what the request came to."""
        return fields.amounts(context.meters[self.meter].unit)
