"""The YAML form of `balance`."""

from typing import Literal

from server.domain.limits.balance import Balance
from server.domain.limits.base import Kind, PlanValues
from server.domain.policy import Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import StatefulModel, cell_name
from server.policy.model import Amount, Name, PlanAmount


class BalanceModel(StatefulModel):
    """Prepaid units of `meter`, which must be there before work starts.

    A new account is given `opening`; a settle above its hold may go `debt` below zero.
    """

    kind: Literal["balance"]
    meter: Name
    opening: PlanAmount = 0
    debt: Amount = 0

    def compile(self, context: Context, path: Path) -> Balance:
        """The balance, in base units."""
        meter = context.meter((*path, "meter"), self.meter)
        return Balance(
            **self.rule(context, path),
            meter=meter.name,
            room=self.room_in(context, path, meter.unit),
            opening=self._opening(context, (*path, "opening"), meter.unit),
            debt=context.amount((*path, "debt"), self.debt, meter.unit),
            cell=cell_name(self.id, Kind.BALANCE, meter.name),
        )

    def _opening(self, context: Context, path: Path, unit: Unit) -> PlanValues:
        opening = context.plan_values(path, self.opening, unit)
        given = [opening.constant] if opening.by_plan is None else opening.by_plan.values()
        if None in given:
            context.reject(path, "'unlimited' cannot be given; expected an amount")
        return opening

    def fills(self, context: Context) -> fields.Fills:
        """The figures; waiting brings no money."""
        return fields.amounts(context.meters[self.meter].unit)
