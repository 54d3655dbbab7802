"""The YAML form of `balance`."""

from itertools import pairwise
from typing import Annotated, Final, Literal

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

MOST_THRESHOLDS: Final = 8
"""Marks of one balance: each hold remembers them."""


class RefillModel(Model):
    """Each cycle begins with at least `to` units; `cycle` is a month from the account's day, or of the calendar."""

    to: PlanAmount
    cycle: Literal["anchored", "calendar"] = "anchored"

    def compile(self, context: Context, path: Path, unit: Unit) -> Refilling:
        """The refill, in base units."""
        return Refilling(_given(context, (*path, "to"), self.to, unit), calendar=self.cycle == "calendar")


def _given(context: Context, path: Path, written: PlanAmount, unit: Unit) -> PlanValues:
    """Values by plan that must be amounts."""
    values = context.plan_values(path, written, unit)
    if None in ([values.constant] if values.by_plan is None else values.by_plan.values()):
        context.reject(path, "'unlimited' cannot be given; expected an amount")
    return values


class BalanceModel(StatefulModel):
    """Prepaid units of `meter`, which must be there before work starts.

    A new account is given `opening`; a settle above its hold may go `debt` below zero. `burn` keeps grants apart and
    names their sources in the order in which they are used up; `refill` tops up each cycle; `ledger` writes down each
    movement of money. When what is left falls to one of `thresholds`, that is noted.
    """

    kind: Literal["balance"]
    meter: Name
    opening: PlanAmount = 0
    debt: Amount = 0
    burn: list[Literal["monthly", "bought", "promotional"]] = Field(default_factory=list)
    refill: RefillModel | None = None
    ledger: bool = False
    thresholds: Annotated[list[PlanAmount], Field(max_length=MOST_THRESHOLDS)] = Field(default_factory=list)

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
            opening=_given(context, (*path, "opening"), self.opening, meter.unit),
            debt=context.amount((*path, "debt"), self.debt, meter.unit),
            burn=self._burn(context, (*path, "burn")),
            refill=None if self.refill is None else self.refill.compile(context, (*path, "refill"), meter.unit),
            ledger=self.ledger,
            thresholds=self._thresholds(context, (*path, "thresholds"), meter.unit),
            cell=cell_name(self.id, Kind.BALANCE, meter.name),
        )

    def _thresholds(self, context: Context, path: Path, unit: Unit) -> tuple[PlanValues, ...]:
        before = context.document.problem_count
        marks = [_given(context, (*path, place), mark, unit) for place, mark in enumerate(self.thresholds)]
        if context.document.problem_count > before:
            return ()
        for higher, lower in pairwise(marks):
            wrong = [plan for plan in context.plans if (higher.of(plan) or 0) <= (lower.of(plan) or 0)]
            if wrong:
                problem = f"on plan {wrong[0]} one is not below that before it; expected falling amounts"
                context.reject(path, problem)
        return tuple(marks)

    def _burn(self, context: Context, path: Path) -> tuple[GrantSource, ...]:
        if self.burn and sorted(self.burn) != sorted(SOURCES):
            context.reject(path, f"expected each of {', '.join(SOURCES)} once, the first to be used up first")
        return tuple(SOURCES[name] for name in self.burn)

    def fills(self, context: Context) -> fields.Fills:
        """The figures; waiting brings no money."""
        return fields.amounts(context.meters[self.meter].unit)
