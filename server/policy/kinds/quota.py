"""The YAML form of `quota`."""

from datetime import UTC, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from server.domain.limits.base import Kind, PlanValues
from server.domain.limits.quota import Quota
from server.domain.policy import Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path, shown
from server.policy.kinds.base import ScopedModel, cell_name
from server.policy.model import Name, PlanAmount, Text


class QuotaModel(ScopedModel):
    """An allowance: at most `limit` units of `meter` per cycle; `unlimited` only counts.

    A cycle is a month that begins on the day of the account's creation (`anchored`) or on the 1st (`calendar`), at
    00:00 in `zone`. `overage` units above the limit are served and billed at `price` each; when limit and overage are
    used up, all is served for `grace` more, then nothing. `thresholds` in percent of the limit are noted once each.
    Without `hard_stop`, and for accounts with the flag `lifted_by`, nothing is ever refused.
    """

    kind: Literal["quota"]
    meter: Name
    limit: PlanAmount
    cycle: Literal["anchored", "calendar"] = "anchored"
    zone: Text = "UTC"
    overage: PlanAmount = 0
    price: PlanAmount = 0
    grace: PlanAmount = 0
    thresholds: list[Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=list)
    hard_stop: bool = True
    lifted_by: Name | None = None

    def compile(self, context: Context, path: Path) -> Quota:
        """The quota, in base units."""
        meter = context.meter((*path, "meter"), self.meter)
        if meter.per_request:
            problem = f"{meter.name} counts requests by itself; a quota counts what is settled: use another meter"
            context.reject((*path, "meter"), problem)
        if list(self.thresholds) != sorted(set(self.thresholds)):
            context.reject((*path, "thresholds"), "expected rising percents, each once, such as [80, 100]")
        if not self.hard_stop and {"overage", "grace"} & self.model_fields_set:
            context.reject((*path, "hard_stop"), "without a hard stop nothing is refused; leave overage and grace out")
        if meter.sampling is not None and {"overage", "price", "grace"} & self.model_fields_set:
            problem = f"{meter.name} is sampled: its quotas have no overage, price or grace; use hard_stop"
            context.reject((*path, "meter"), problem)
        scope = self.scope_order(context, path)
        identity = f"{meter.name} {meter.sampling.identity}" if meter.sampling is not None else meter.name
        rule = self.rule(context, path)
        if meter.sampling is not None:  # requests take nothing of it; at most they look whether there is room
            rule["actions"] = frozenset(self.room)
        return Quota(
            **rule,
            meter=meter.name,
            scope=scope,
            optional_for=self.optional_actions(context, path),
            room=self.room_in(context, path, meter.unit),
            values=context.plan_values((*path, "limit"), self.limit, meter.unit),
            anchored=self.cycle == "anchored",
            zone=self._zone(context, (*path, "zone")),
            overage=context.plan_values((*path, "overage"), self.overage, meter.unit),
            price=self._limited(context, (*path, "price"), self.price, Unit.MONEY),
            grace=self._limited(context, (*path, "grace"), self.grace, Unit.DURATION),
            thresholds=tuple(self.thresholds),
            hard_stop=self.hard_stop,
            lifted_by=self.lifted_by or "",
            sampling=meter.sampling,
            cell=cell_name(self.id, Kind.QUOTA, identity, scope),
        )

    def _zone(self, context: Context, path: Path) -> tzinfo:
        if self.zone == "UTC":
            return UTC
        try:
            return ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):  # unknown, malformed, or a folder of zones
            context.reject(path, f"{shown(self.zone)} is no time zone; expected a name such as UTC or Europe/Berlin")
            return UTC

    def _limited(self, context: Context, path: Path, written: PlanAmount, unit: Unit) -> PlanValues:
        values = context.plan_values(path, written, unit)
        given = [values.constant] if values.by_plan is None else values.by_plan.values()
        if None in given:
            context.reject(path, "'unlimited' has no end; expected an amount")
        return values

    def fills(self, context: Context) -> fields.Fills:
        """The figures, and when the cycle ends, which a retryable refusal may tell in seconds, too."""
        return {**fields.amounts(context.meters[self.meter].unit), **fields.CYCLE, **fields.RETRY_AFTER}
