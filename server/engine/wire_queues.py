"""Queues on the wire and in the store: what `lua/include/queues.lua` reads. Mirrored there by name."""

from typing import Final, cast

from server.domain.limits.base import QueueForm
from server.domain.limits.slots import Slots
from server.domain.plan import CheckForm, Plan
from server.domain.queue import QueueTerms, Ticket, queue_terms
from server.domain.units import MAX_AMOUNT
from server.engine.sequences import pack

TERMS: Final = "wire.queues"
"""Where a shape's memo has the terms of the queues, with the account version that they are for."""


def joined_checks(check: CheckForm) -> list[CheckForm]:
    """Looks at the cells of the pools that share places with a pool with a queue: they stand in front of its own."""
    limit, queue = check.limit, check.queue
    if queue is None:
        return []
    assert isinstance(limit, Slots)  # noqa: S101  # only pools have queues
    return [
        CheckForm(
            place=-1,
            limit=Slots(id=limit.id, label=limit.label, refuse=limit.refuse, cell=cell),
            scope=(),
            cap=MAX_AMOUNT,
            settles=False,
            meter=-1,
            fixed=0,
            asks_room=True,
        )
        for cell in queue.cells
        if cell != limit.cell
    ]


def pool_param(limit: Slots, queue: QueueForm | None) -> bytes | int:
    """What a look at a pool needs beside its bound: whether jobs are measured, their usual length; then the queue's
    depth, and how many pools share its places.
    """
    if not limit.typical_ms:
        return 0
    drain = bytes([limit.measured]) + limit.typical_ms.to_bytes(6, "big")
    if queue is None:
        return drain
    return drain + min(queue.depth, MAX_AMOUNT).to_bytes(7, "big") + bytes([len(queue.cells) - 1])


def kept_param(limit: Slots, ticket: Ticket | None) -> bytes | int:
    """What a hold remembers of its pool: whether jobs are measured; then how its place in the queue is kept."""
    if not limit.typical_ms:
        return 0
    measured = bytes([limit.measured])
    return measured if ticket is None else measured + ticket.lasts_ms.to_bytes(4, "big") + ticket.owner.encode()


def pack_terms(terms: QueueTerms) -> bytes:
    """The terms as they are stored while anybody waits."""
    values: list[object] = [terms.version, terms.from_ms, terms.until_ms, len(terms.groups)]
    for cap, cells in terms.groups:
        values += (cap, len(cells), *cells)
    return pack(values)


def pack_wait(plan: Plan, cell: str, ticket: Ticket) -> bytes:
    """What `reserve.lua` needs of a request that may wait for a place of the pool with this cell."""
    memo, account = plan.shape.memo, plan.account
    known = memo.get(TERMS)
    if known is None or known[0] != account.version:
        terms = queue_terms(plan.policy, plan.operation.ref, account, plan.valid_from_ms)
        known = memo[TERMS] = account.version, pack_terms(terms)
    return pack([ticket.lasts_ms, cell, cast("bytes", known[1]), *plan.policy.queue_cells])
