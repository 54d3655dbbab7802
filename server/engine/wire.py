"""What goes to the scripts: plans, requests, reports, each as positions that the scripts share.

Arguments are msgpack values one behind the other (`sequences.py`; `cmsgpack` in Lua). Their layouts stand in the
headers of the scripts and of `lua/include/checks.lua`, and are mirrored here by name. What is stored is read by
`records.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Final, NamedTuple, cast

import msgpack

from server.domain.errors import CorruptStateError
from server.domain.hold import Delivered, Fraction, HoldNote
from server.domain.limits.base import Look
from server.domain.limits.slots import Slots
from server.domain.plan import Plan
from server.domain.queue import Ticket
from server.domain.timed import Start
from server.engine import keys, wire_limits, wire_queues
from server.engine.sequences import pack, pack_one, unpack
from server.engine.wire_shape import ShapeForm, form_of

NOTE: Final = "wire.note"
"""Where a shape's memo has the note of its holds, packed."""


class PackedPlan(NamedTuple):
    """A plan for the scripts: the argument, the keys of its window scopes, its shape's form, and what fills that."""

    argument: bytes
    window_keys: list[bytes]
    form: ShapeForm
    values: list[bytes]


def replayed_looks(plan: Plan, record: bytes, most_cells: int) -> tuple[Look, ...]:
    """The figures of the grant that a record is of; none where the plan is another one or can no longer tell what they
    mean.

    The record has them as they were before the grant took what the plan asks for.
    """
    try:
        _, created_ms, _, _, figures, marks, *_ = unpack(record)
        if marks != plan.fingerprint + plan.shape.figures_key:
            return ()
        form = form_of(plan.shape, most_cells)
        return form.looks(figures, created_ms, form.taken(plan.units))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        message = f"the figures of hold {plan.operation.request_id!r} are not readable: {error!r}"
        raise CorruptStateError(message) from error


def pack_plan(plan: Plan, tenant: keys.TenantKeys, now_ms: int, most_cells: int) -> PackedPlan:
    """A plan as the scripts' first argument."""
    form = form_of(plan.shape, most_cells)
    values = form.packed(now_ms, plan.account.version, plan.units)
    return PackedPlan(form.argument.filled(values), [tenant.windows(text) for text in form.scopes], form, values)


def pack_reserve(
    plan: Plan, packed: PackedPlan, tenant: keys.TenantKeys, hold_id: str, ticket: Ticket | None = None
) -> list[bytes]:
    """What `reserve.lua` needs beside the plan: the request and the hold's record, then takes of shadow checks, then
    what it needs of a request that may wait, for which `ticket` is kept.
    """
    form, shape, terms = packed.form, plan.shape, plan.terms
    pool_param, wait = form.pool_param, []
    if ticket is not None and (pool := form.queued_pool) is not None:
        pool_param = pack_one(wire_queues.kept_param(pool, ticket))
        wait = [wire_queues.pack_wait(plan, pool.cell, ticket)]
    lease_ms = terms.granted_ms if plan.leaves_hold else 0
    marks = pack_one(plan.fingerprint + shape.figures_key)
    values = [*packed.values, marks, pack_one(terms.lease_ms if lease_ms else 0), _note_of(plan), pool_param]
    request = pack(
        [
            int(shape.gated),
            hold_id,
            lease_ms,
            terms.longest_ms,
            terms.replay_ms,
            tenant.member,
            form.record.filled(values),
        ]
    )
    if form.shadows:
        takes = form.takes.filled(values)
        return [request, pack([form.take_count, takes, *form.shadow_takes(plan.units)]), *wait]
    return [request, b"", *wait] if wait else [request]


def pack_ticket(plan: Plan, hold_id: str, ticket: Ticket | None) -> bytes:
    """What `ticket.lua` needs beside the plan; without a ticket it is kept as it was."""
    pool = next((form.limit for form in plan.shape.checks if form.queue is not None), None)
    kept = wire_queues.kept_param(pool, ticket) if isinstance(pool, Slots) and ticket is not None else b""
    return pack([hold_id, kept])


def _note_of(plan: Plan) -> bytes:
    """The note, packed; where neither items nor paid time tell requests apart, all plans of a shape have the same."""
    if plan.operation.items or plan.shape.terms.timed is not None:
        return pack_one(_pack_note(plan.note))
    note = plan.shape.memo.get(NOTE)
    if note is None:
        note = plan.shape.memo[NOTE] = pack_one(_pack_note(plan.note))
    return cast("bytes", note)


def _pack_note(note: HoldNote) -> bytes:
    values: list[object] = [
        note.action,
        note.policy_version,
        dict(note.scope),
        {item: dict(prices) for item, prices in note.item_prices.items()},
    ]
    if note.timed_ms:
        values += (note.timed_ms, note.started_at_ms, note.connection)
    packed: bytes = msgpack.packb(values)
    return packed


def pack_settle(now_ms: int, hold_id: str, delivered: Delivered, *, final: bool) -> bytes:
    """The argument of `settle.lua`; items have been turned into totals before."""
    head: list[object] = [now_ms, hold_id, int(final)]
    if isinstance(delivered, Fraction):
        return pack([*head, 2, delivered.delivered, delivered.reserved])
    if isinstance(delivered, Mapping):
        return pack([*head, 1, len(delivered), *chain.from_iterable(delivered.items())])
    return pack([*head, 0])


def pack_start(start: Start, tenant: keys.TenantKeys) -> bytes:
    """What `extend.lua` needs to start a hold."""
    before = replace(start.note, started_at_ms=0, connection="")
    return pack([_pack_note(before), _pack_note(start.note), start.longest_ends_at_ms, tenant.member])


def pack_extend(
    hold_id: str, used: Mapping[str, int], raised: Plan | None, packed: PackedPlan | None, meters: Iterable[str]
) -> bytes:
    """What `extend.lua` needs beside the plan. `meters` are the hold's, in its order."""
    numbers = {meter: number for number, meter in enumerate(meters, start=1)}
    totals = raised.meters if raised is not None else {}
    values: list[object] = [
        hold_id,
        int(raised is not None),
        int(raised is not None and (raised.gated or raised.guarded)),
        len(used),
        *chain.from_iterable(used.items()),
        len(totals),
        *chain.from_iterable(totals.items()),
    ]
    for check in packed.form.checks if packed is not None else ():
        meter = numbers.get(check.limit.meter, 0) if check.settles else 0
        values += [meter, wire_limits.scope(check), wire_limits.hold_param(check)]
    return pack(values)
