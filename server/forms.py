"""Forms of requests: what is planned once for all that differ in tenant, id and units alone."""

from typing import Final

from server.domain.account import Account
from server.domain.operation import Operation
from server.domain.plan import Plan, Shape, cycle_anchors, make_shape
from server.domain.policy import Policy

SHAPES_CACHED: Final = 1_000
"""Shapes kept of one form."""


class Form:
    """Valid requests that differ in tenant, id and units alone: for each kind of account, the shape of their plans.

    `names` are those of the amounts.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._shapes: dict[tuple[object, ...], Shape] = {}

    def plan(self, policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
        """The operation's plan."""
        anchors = cycle_anchors(policy, account) if policy.anchor_zones else ()
        key = (account.plan, account.overrides, account.flags_key, anchors)
        shape = self._shapes.get(key)
        if shape is None or not shape.valid_from_ms <= now_ms < shape.valid_until_ms:
            if len(self._shapes) >= SHAPES_CACHED:
                self._shapes.clear()
            shape = self._shapes[key] = make_shape(policy, operation, self._names, account, now_ms)
        return Plan(shape, operation, account, tuple(operation.amounts.values()))
