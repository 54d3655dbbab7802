"""The YAML form of `balance`."""

from typing import Final, Literal

from pydantic import Field

from server.domain.limits.balance import Balance, GrantSource, Refilling
from server.domain.limits.base import Kind, PlanValues
from server.domain.policy import Unit
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import StatefulModel, cell_name
from server.policy.model import Amount, Model, Name, PlanAmount

SOURCES: Final = {source.name.lower(): source for source in GrantSource}
"""Where units may come from, as policies name it."""


class RefillModel(Model):
    """Each cycle begins with at least `to` units; `cycle` is a month from the account's day, or of the calendar."""

    to: PlanAmount
    cycle: Literal["anchored", "calendar"] = "anchored"

    def compile(self, context: Context, path: Path, unit: Unit) -> Refilling:
        """The refill, in base units."""
        ceiling = _given(context, (*path, "to"), context.plan_values((*path, "to"), self.to, unit))
        return Refilling(ceiling, calendar=self.cycle == "calendar")


def _given(context: Context, path: Path, values: PlanValues) -> PlanValues:
    """The values; what is given must be an amount."""
    if None in ([values.constant] if values.by_plan is None else values.by_plan.values()):
        context.reject(path, "'unlimited' cannot be given; expected an amount")
    return values


class BalanceModel(StatefulModel):
    """Prepaid units of `meter`, which must be there before work starts.

    A new account is given `opening`; a settle above its hold may go `debt` below zero. `burn` keeps grants apart and
    names their sources in the order in which they are used up; `refill` tops up each cycle; `ledger` writes down each
    movement of money.
    """

    kind: Literal["balance"]
    meter: Name
    opening: PlanAmount = 0
    debt: Amount = 0
    burn: list[Literal["monthly", "bought", "promotional"]] = Field(default_factory=list)
    refill: RefillModel | None = None
    ledger: bool = False

    def compile(self, context: Context, path: Path) -> Balance:
        """The balance, in base units."""
        meter = context.meter((*path, "meter"), self.meter)
        if self.posture == "open":
            problem = "a balance cannot be open: what is there is known to the store alone; leave it closed"
            context.reject((*path, "posture"), problem)
        return Balance(
            **self.rule(context, path),
            meter=meter.name,
            room=self.room_in(context, path, meter.unit),
            opening=self._opening(context, (*path, "opening"), meter.unit),
            debt=context.amount((*path, "debt"), self.debt, meter.unit),
            burn=self._burn(context, (*path, "burn")),
            refill=None if self.refill is None else self.refill.compile(context, (*path, "refill"), meter.unit),
            ledger=self.ledger,
            cell=cell_name(self.id, Kind.BALANCE, meter.name),
        )

    def _opening(self, context: Context, path: Path, unit: Unit) -> PlanValues:
        return _given(context, path, context.plan_values(path, self.opening, unit))

    def _burn(self, context: Context, path: Path) -> tuple[GrantSource, ...]:
        if self.burn and sorted(self.burn) != sorted(SOURCES):
            context.reject(path, f"expected each of {', '.join(SOURCES)} once, the first to be used up first")
        return tuple(SOURCES[name] for name in self.burn)

    def fills(self, context: Context) -> fields.Fills:
        """The figures; waiting brings no money."""
        return fields.amounts(context.meters[self.meter].unit)
