"""From a request to what plans it: the policy's names filled in, the whole validated once for all that are alike."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from server.domain.account import Account
from server.domain.operation import Item, Operation
from server.domain.plan import Plan, Shape, cycle_anchors, make_plan, make_shape
from server.domain.policy import Policy

FORMS_CACHED: Final = 10_000
"""Forms of requests kept by this process; made anew when there are more."""

SHAPES_CACHED: Final = 1_000
"""Shapes kept of one form."""

USUAL: Final = "usual"
"""The id of the item that a request is about which names nothing."""

Planner: TypeAlias = Callable[[Policy, Operation, Account, int], Plan]
"""Plans an operation for an account at a time, in milliseconds."""


class Form:
    """Valid requests that differ in tenant, id and units alone: for each kind of account, the shape of their plans.

    `names` are those of the amounts; `scope` are the dimensions with what the policy's catalog makes of them.
    """

    def __init__(self, names: tuple[str, ...], scope: Mapping[str, str]) -> None:
        self.scope = scope
        self._names = names
        self._shapes: dict[tuple[object, ...], Shape] = {}

    def plan(self, policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
        """The operation's plan."""
        anchors = cycle_anchors(policy, account) if policy.anchor_zones else ()
        key = (account.plan, account.tier_override, account.overrides, account.flags_key, anchors)
        shape = self._shapes.get(key)
        if shape is None or not shape.valid_from_ms <= now_ms < shape.valid_until_ms:
            if len(self._shapes) >= SHAPES_CACHED:
                self._shapes.clear()
            shape = self._shapes[key] = make_shape(policy, operation, self._names, account, now_ms)
        return Plan(shape, operation, account, tuple(operation.amounts.values()))


class Forms:
    """The forms that one process has met."""

    def __init__(self) -> None:
        self._forms: dict[tuple[object, ...], Form] = {}

    def prepared(self, policy: Policy, operation: Operation) -> tuple[Operation, Planner]:
        """The operation as the policy has it, validated, and what plans it; raises InvalidRequestError."""
        if policy.usual and not operation.amounts and not operation.items and operation.action in policy.usual:
            product, quantity = policy.usual[operation.action]
            operation = operation._replace(items=(Item(USUAL, product, quantity),))
        if operation.items:
            operation.validate(policy)
            return _resolved(policy, operation), make_plan
        key = (policy.version, operation.action, *operation.scope.items(), *operation.amounts)
        form = self._forms.get(key)
        if form is not None:
            operation.validate_values(policy)
        else:
            operation.validate(policy)
            if len(self._forms) >= FORMS_CACHED:
                self._forms.clear()
            scope = _resolved(policy, operation).scope
            form = self._forms[key] = Form(tuple(operation.amounts), scope)
        if policy.catalog is not None:
            operation = operation._replace(scope=form.scope)
        return operation, form.plan


def _resolved(policy: Policy, operation: Operation) -> Operation:
    return operation if policy.catalog is None else operation._replace(scope=policy.resolved(operation.scope))
