"""BEST_EFFORT as a use case: asks for all, and where that does not fit, for as much as the refusal says is left."""

from time import monotonic
from typing import Final

from server.domain.best_effort import as_taken, asked, asking, fitting, units_of
from server.domain.decision import Decision
from server.domain.operation import Operation
from server.gate import QuotaGate

ROUNDS: Final = 4
"""Attempts at more than the minimum, while others take what was left."""


async def check_and_reserve(gate: QuotaGate, operation: Operation, *, within_s: float) -> Decision:
    """Takes all that was asked for, or as much of the flexible meter as fits and at least its minimum, or nothing.

    Each attempt takes all or nothing, or all but a place, for which it waits. A refusal is that of the minimum, or of
    limits that fewer units would not help.
    """
    policy, ref = gate.resolve(operation.ref)
    operation = operation.of(ref)
    operation.validate(policy)
    if policy.catalog is not None:
        operation = operation._replace(scope=policy.catalog.resolved(operation.scope))
    operation, costs = asked(operation, policy)
    assert operation.flexible is not None  # noqa: S101  # as asked
    minimum, units = operation.flexible.minimum, units_of(operation)
    ends_s = monotonic() + within_s
    for attempt in range(ROUNDS + 1):
        now = asking(operation, units)
        decision = await gate.check_and_reserve(now, within_s=ends_s - monotonic())
        if decision.granted or decision.position:
            return as_taken(decision, operation, policy, costs)
        if units == minimum:
            return decision
        most = fitting(decision, now, costs)
        units = max(most, minimum) if attempt < ROUNDS - 1 else minimum
    return decision
