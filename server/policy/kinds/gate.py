"""The YAML form of `gate`."""

from typing import Literal

from pydantic import Field

from server.domain.limits.gate import Gate
from server.policy.context import Context
from server.policy.document import Path
from server.policy.fields import GATE, Fills, Value
from server.policy.kinds.base import LimitModel
from server.policy.model import FieldName, Name, Text


class GateModel(LimitModel):
    """A condition on the account, in one of three forms.

    The account's `flag` must be what `is` says, or its plan one of `plans`, or the plan must `allow` the value that the
    request gives to the dimension `of`; each plan lists its values in rising order.
    """

    kind: Literal["gate"]
    flag: Name | None = None
    expect: bool = Field(default=True, alias="is")
    of: FieldName | None = None
    allow: dict[Name, list[Text]] | None = None
    plans: list[Name] = Field(default_factory=list)

    def compile(self, context: Context, path: Path) -> Gate:
        """The gate in its one form."""
        forms = [self.flag is not None, self.of is not None, bool(self.plans)]
        if sum(forms) != 1 or (self.of is None) != (self.allow is None):
            context.reject(path, "expected `flag` with `is`, or `of` with `allow`, or `plans`")
        context.expect_known((*path, "plans"), self.plans, context.plans, "plan")
        if (self.of is not None or self.plans) and "expect" in self.model_fields_set:
            context.reject((*path, "is"), "belongs to a gate with `flag`; leave it out")
        if self.of is not None:
            context.expect_known((*path, "of"), [self.of], context.dimensions, "dimension")
        allow = None
        if self.allow is not None:
            context.by_plan((*path, "allow"), self.allow)
            allow = {plan: tuple(allowed) for plan, allowed in self.allow.items()}
        rule = self.rule(context, path)
        plans = tuple(self.plans)
        return Gate(**rule, flag=self.flag or "", expect=self.expect, of=self.of or "", allow=allow, plans=plans)

    def fills(self, context: Context) -> Fills:  # noqa: ARG002  # one signature for all kinds
        """What was asked for, and the highest that the plan allows if every plan allows something."""
        if self.allow is None:
            return {}
        return GATE if all(self.allow.values()) else {"requested": Value.TEXT}

    def dimensions(self) -> frozenset[str]:
        """As above; a gate refuses only who names its dimension."""
        return super().dimensions() | ({self.of} if self.of else frozenset())
