"""From a request to what plans it: the policy's names filled in, the whole validated once for all that are alike."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from server.domain.account import Account
from server.domain.operation import Item, Operation
from server.domain.plan import Plan, Shape, cycle_anchors, make_plan, make_shape
from server.domain.policy import Policy

FORMS_CACHED: Final = 10_000
"""Forms of requests kept by this process; made anew when there are more."""

SHAPES_CACHED: Final = 20_000
"""Shapes kept of all forms, some 3 KB each: accounts with overrides of their own have shapes of their own in each."""

USUAL: Final = "usual"
"""The id of the item that a request is about which names nothing."""

Planner: TypeAlias = Callable[[Policy, Operation, Account, int], Plan]
"""Plans an operation for an account at a time, in milliseconds."""


class Form:
    """Valid requests that differ in tenant, id and units alone: for each kind of account, the shape of their plans.

    `names` are those of the amounts; `scope` are the dimensions with what the policy's catalog makes of them. `made` is
    told of each shape.
    """

    def __init__(self, names: tuple[str, ...], scope: Mapping[str, str], made: Callable[[], None]) -> None:
        self.scope = scope
        self._names = names
        self._made = made
        self._shapes: dict[tuple[object, ...], Shape] = {}

    def plan(self, policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
        """The operation's plan."""
        anchors = cycle_anchors(policy, account) if policy.anchor_zones else ()
        key = (account.plan, account.tier_override, account.overrides, account.flags_key, anchors)
        shape = self._shapes.get(key)
        if shape is None or not shape.valid_from_ms <= now_ms < shape.valid_until_ms:
            shape = make_shape(policy, operation, self._names, account, now_ms)
            self._made()
            self._shapes[key] = shape
        return Plan(shape, operation, account, tuple(operation.amounts.values()))


class Forms:
    """The forms that one process has met."""

    def __init__(self) -> None:
        self._forms: dict[tuple[object, ...], Form] = {}
        self._shapes = 0

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
                self._shapes = 0
            scope = _resolved(policy, operation).scope
            form = self._forms[key] = Form(tuple(operation.amounts), scope, self._made)
        if policy.catalog is not None:
            operation = operation._replace(scope=form.scope)
        return operation, form.plan

    def _made(self) -> None:
        self._shapes += 1
        if self._shapes > SHAPES_CACHED:
            self._forms.clear()
            self._shapes = 1


def _resolved(policy: Policy, operation: Operation) -> Operation:
    return operation if policy.catalog is None else operation._replace(scope=policy.resolved(operation.scope))
