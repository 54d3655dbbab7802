"""A proxy's question, decided. It cannot keep its client waiting, and comes back only under an id that it named."""

from server.domain.decision import Decision
from server.domain.operation import Operation
from server.gate import QuotaGate


async def decided(gate: QuotaGate, operation: Operation, *, named: bool, within_s: float) -> Decision:
    """The gate's answer. Unless the proxy `named` the request, what would wait in a queue leaves it at once: its turn
    would hold a place that nobody claims.
    """
    decision = await gate.check_and_reserve(operation, within_s=within_s)
    if decision.position and decision.lease and not named:
        await gate.release(operation.ref, decision.lease.hold_id, within_s=within_s)
    return decision
