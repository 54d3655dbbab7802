"""The YAML form of `count`."""

from typing import Literal

from server.domain.limits.base import Kind
from server.domain.limits.count import Count
from server.domain.policy import Meter, Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import ScopedModel, cell_name
from server.policy.model import Name, PlanAmount


class CountModel(ScopedModel):
    """Standing allocations: at most `limit` at once; `unlimited` only counts.

    Each request takes one place, or as many as it asks for of `meter`; a final settle makes it an allocation, which
    ReleaseAllocation gives back. Accounts with the flag `lifted_by` have no limit, and are counted all the same.
    """

    kind: Literal["count"]
    meter: Name | None = None
    limit: PlanAmount
    lifted_by: Name | None = None

    def compile(self, context: Context, path: Path) -> Count:
        """The count."""
        meter = Meter("") if self.meter is None else context.meter((*path, "meter"), self.meter)
        if meter.unit is not Unit.COUNT or meter.per_request:
            text = f"{meter.name} is no count that callers name; allocations are counted in whole numbers"
            context.reject((*path, "meter"), text)
        if self.posture == "open":
            problem = "a count cannot be open: what stands is known to the store alone; leave it closed"
            context.reject((*path, "posture"), problem)
        scope = self.scope_order(context, path)
        return Count(
            **self.rule(context, path),
            meter=meter.name,
            scope=scope,
            optional_for=self.optional_actions(context, path),
            room=self.room_in(context, path, Unit.COUNT),
            values=context.plan_values((*path, "limit"), self.limit, Unit.COUNT),
            lifted_by=self.lifted_by or "",
            cell=cell_name(self.id, Kind.COUNT, meter.name, scope),
        )

    def fills(self, context: Context) -> fields.Fills:  # noqa: ARG002  # one signature for all kinds
        """The figures."""
        return fields.amounts(Unit.COUNT)
