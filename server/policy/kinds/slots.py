"""The YAML form of `slots`."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from server.domain.limits.base import UNLIMITED, Kind, Posture
from server.domain.limits.slots import Queue, Slots
from server.domain.policy import Meter, Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import ScopedModel, cell_name
from server.policy.model import Amount, Model, Name, PlanAmount

TIMES: Final = re.compile(r"([1-9][0-9]{0,3})x")
"""A depth as a multiple of the pool's places."""


class QueueModel(Model):
    """Where requests wait for a place: `depth` of them, as a number or as `3x` the places. A ticket lapses when it was
    not asked for during `ticket`.
    """

    depth: PlanAmount
    ticket: Amount

    def compile(self, context: Context, path: Path, cells: Mapping[str, list[str]]) -> Queue:
        """The queue; `cells` has, by plan, the pools that share their places."""
        times = TIMES.fullmatch(self.depth) if isinstance(self.depth, str) else None
        depths = UNLIMITED if times else context.plan_values((*path, "depth"), self.depth, Unit.COUNT)
        joined = {plan: tuple(cell_name(pool, Kind.SLOTS, "") for pool in pools) for plan, pools in cells.items()}
        ticket_ms = context.duration((*path, "ticket"), self.ticket)
        return Queue(times=int(times[1]) if times else 0, depths=depths, ticket_ms=ticket_ms, joined=joined)


class SlotsModel(ScopedModel):
    """A pool: at most `limit` places at once.

    Each request takes one place, or as many as it asks for of `meter`. `typical` is the usual length of a job,
    for the hint when a place may be free; with `measured` that of recent jobs takes its place once there were enough.
    Without a place they wait in the `queue`. `cells` has plans on which pools with queues share their places and the
    order of arrival.
    """

    kind: Literal["slots"]
    meter: Name | None = None
    limit: PlanAmount
    typical: Amount | None = None
    measured: bool = False
    queue: QueueModel | None = None
    cells: dict[Name, Annotated[list[Name], Field(min_length=1)]] = Field(default_factory=dict)

    def compile(self, context: Context, path: Path) -> Slots:
        """The pool."""
        meter = Meter("") if self.meter is None else context.meter((*path, "meter"), self.meter)
        if meter.unit is not Unit.COUNT:
            context.reject((*path, "meter"), f"{meter.name} is no count; places are counted in whole numbers")
        scope = self.scope_order(context, path)
        if self.measured and self.typical is None:
            context.reject((*path, "measured"), "needs `typical`, for the time until enough jobs were measured")
        self._check_queue(context, path)
        rule = self.rule(context, path)
        if self.queue is not None:
            rule["posture"] = Posture.CLOSED  # only the store knows who is next
        return Slots(
            **rule,
            meter=meter.name,
            scope=scope,
            optional_for=self.optional_actions(context, path),
            room=self.room_in(context, path, Unit.COUNT),
            values=context.plan_values((*path, "limit"), self.limit, Unit.COUNT),
            typical_ms=0 if self.typical is None else context.duration((*path, "typical"), self.typical),
            measured=self.measured,
            queue=None if self.queue is None else self.queue.compile(context, (*path, "queue"), self.cells),
            cell=cell_name(self.id, Kind.SLOTS, meter.name, scope),
        )

    def _check_queue(self, context: Context, path: Path) -> None:
        if self.queue is None:
            if self.cells:
                context.reject((*path, "cells"), "only pools with a queue share places; give it a `queue`")
            return
        if self.typical is None:
            context.reject((*path, "queue"), "needs `typical`, for the hint when the queue is full")
        for key in ("scope", "meter", "room", "shadow"):
            if getattr(self, key):
                context.reject(
                    (*path, key), "does not go with a queue; requests wait for one place of the tenant's pool"
                )
        context.expect_known((*path, "cells"), self.cells, context.plans, "plan")

    def fills(self, context: Context) -> fields.Fills:  # noqa: ARG002  # one signature for all kinds
        """The figures, and a guess when there will be room if jobs have a usual length."""
        hint = {} if self.typical is None else fields.RETRY_AFTER
        queue = {} if self.queue is None else fields.QUEUE
        return {**fields.amounts(Unit.COUNT), **hint, **queue}
