"""The YAML form of `slots`."""

from typing import Literal

from server.domain.limits.base import Kind
from server.domain.limits.slots import Slots
from server.domain.policy import Meter, Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import ScopedModel, cell_name
from server.policy.model import Amount, Name, PlanAmount


class SlotsModel(ScopedModel):
    """A pool: at most `limit` places at once.

    Each request takes one place, or as many as it asks for of `meter`. `typical` is the usual length of a job,
    for the hint when a place may be free; with `measured` that of recent jobs takes its place once there were enough.
    """

    kind: Literal["slots"]
    meter: Name | None = None
    limit: PlanAmount
    typical: Amount | None = None
    measured: bool = False

    def compile(self, context: Context, path: Path) -> Slots:
        """The pool."""
        meter = Meter("") if self.meter is None else context.meter((*path, "meter"), self.meter)
        if meter.unit is not Unit.COUNT:
            context.reject((*path, "meter"), f"{meter.name} is no count; places are counted in whole numbers")
        scope = self.scope_order(context, path)
        if self.measured and self.typical is None:
            context.reject((*path, "measured"), "needs `typical`, for the time until enough jobs were measured")
        return Slots(
            **self.rule(context, path),
            meter=meter.name,
            scope=scope,
            optional_for=self.optional_actions(context, path),
            room=self.room_in(context, path, Unit.COUNT),
            values=context.plan_values((*path, "limit"), self.limit, Unit.COUNT),
            typical_ms=0 if self.typical is None else context.duration((*path, "typical"), self.typical),
            measured=self.measured,
            cell=cell_name(self.id, Kind.SLOTS, meter.name, scope),
        )

    def fills(self, context: Context) -> fields.Fills:  # noqa: ARG002  # one signature for all kinds
        """The figures, and a guess when there will be room if jobs have a usual length."""
        hint = {} if self.typical is None else fields.RETRY_AFTER
        return {**fields.amounts(Unit.COUNT), **hint}
