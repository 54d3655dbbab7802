"""What goes to the scripts: plans, requests, reports, each as positions that the scripts share.

Arguments are msgpack values one behind the other (`sequences.py`; `cmsgpack` in Lua). Their layouts stand in the
headers of the scripts and of `lua/include/checks.lua`, and are mirrored here by name. What is stored is read by
`records.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias, cast

import msgpack

from server.domain.errors import CorruptStateError
from server.domain.hold import Delivered, Fraction, HoldNote
from server.domain.limits.balance import Balance
from server.domain.limits.base import CycleTerms, Kind, Look, QueueLook
from server.domain.limits.quota import Quota
from server.domain.limits.slots import Slots
from server.domain.limits.window import Window
from server.domain.plan import CheckForm, Plan, Shape
from server.domain.policy import Policy
from server.domain.queue import Ticket
from server.domain.timed import Start
from server.engine import keys, quota_cells, wire_queues
from server.engine.sequences import array_head, pack, unpack

ROW: Final = 3
CHECK_SIZE: Final = 6
TAKE_SIZE: Final = 9
TAKE_AMOUNT: Final = 4
"""Where a take has its amount."""


SHAPE: Final = "wire.form"
NOTE: Final = "wire.note"
"""Names in a shape's memo."""


_ToLook: TypeAlias = "Callable[[CheckForm, list[int], int, int], Look]"


def _window_look(check: CheckForm, row: list[int], taken: int, _now_ms: int) -> Look:
    used, reset_ms, wait_ms = row
    used += taken
    if taken and not reset_ms:
        reset_ms = cast("Window", check.limit).window_ms
    return Look(check.cap, used, 0, reset_ms, wait_ms)


def _slots_look(check: CheckForm, row: list[int], taken: int, _now_ms: int) -> Look:
    used, _, wait_ms = row
    used += taken
    return Look(check.cap, used, used, -1, wait_ms)


def _balance_look(_: CheckForm, row: list[int], taken: int, _now_ms: int) -> Look:
    there, held, wait_ms = row
    held += taken
    return Look(there, held, held, -1, wait_ms)


def _quota_look(check: CheckForm, row: list[int], taken: int, now_ms: int) -> Look:
    used, held, wait_ms = row
    terms = cast("CycleTerms", check.terms)
    look = Look(check.cap, used + taken, held + taken, terms.end_ms - now_ms, wait_ms)
    return cast("Quota", check.limit).shown(look, terms, check.shown)


def _count_look(check: CheckForm, row: list[int], taken: int, _now_ms: int) -> Look:
    used, held, wait_ms = row
    return Look(check.cap, used + taken, held + taken, -1, wait_ms)


_LOOKS: Final[Mapping[Kind, _ToLook]] = {
    Kind.WINDOW: _window_look,
    Kind.SLOTS: _slots_look,
    Kind.BALANCE: _balance_look,
    Kind.QUOTA: _quota_look,
    Kind.COUNT: _count_look,
}
"""What a kind's two numbers mean (`check_all` in `lua/include/checks.lua`), once `taken` units are added to them."""


def _queued_look(check: CheckForm, row: list[int], taken: int, _now_ms: int) -> Look:
    used, queued, wait_ms = row
    used += taken
    return QueueLook(check.cap, used, used, -1, wait_ms, queued, check.queue.depth if check.queue is not None else 0)


def _look_of(check: CheckForm) -> _ToLook:
    return _LOOKS[check.limit.kind] if check.queue is None else _queued_look


class PackedPlan(NamedTuple):
    """A plan for the scripts: the argument, the keys of its window scopes, and the form of its shape."""

    argument: bytes
    window_keys: list[bytes]
    form: "ShapeForm"

    def looks(self, rows: bytes, now_ms: int, taken: Sequence[int] = ()) -> tuple[Look, ...]:
        """The script's rows of `now_ms` as looks, in the plan's order; `taken` are the units taken since, per row."""
        form = self.form
        flat = msgpack.unpackb(form.rows_head + rows)
        taken = taken or form.nothing
        return tuple(
            [
                look(check, flat[at : at + ROW], 0 if flat[at + 2] else taken[row], now_ms)
                for row, at, check, look in form.rows
            ]
        )


class ShapeForm:
    """What all plans of a shape have in common on the wire; `SHAPE` finds it in the shape's memo.

    Lists with the shape's constants, and the places in them that a request's own amounts go to: filling and packing
    a list costs less than making it.
    """

    __slots__ = (
        "_fills",
        "_take_fills",
        "_units_at",
        "checks",
        "nothing",
        "pool_param",
        "rows",
        "rows_head",
        "scopes",
        "shadows",
        "takes",
        "values",
    )

    def __init__(self, shape: Shape, most_cells: int) -> None:
        checks = shape.checks
        standing = [index for index, check in enumerate(checks) if check.limit.kind is not Kind.WINDOW]
        scopes: dict[str, list[int]] = {}
        for index, check in enumerate(checks):
            if check.limit.kind is Kind.WINDOW:
                scopes.setdefault(keys.scope_text(check), []).append(index)
        order = standing + [index for indices in scopes.values() for index in indices]
        self.checks: list[CheckForm] = []
        places: dict[int, int] = {}
        for index in order:
            self.checks += wire_queues.joined_checks(checks[index])
            places[index] = len(self.checks)
            self.checks.append(checks[index])
        self.rows = [(places[index], places[index] * ROW, check, _look_of(check)) for index, check in enumerate(checks)]
        self.rows_head = array_head(len(self.checks) * ROW)
        self.nothing = [0] * len(self.checks)
        self.pool_param = -1
        self.scopes = list(scopes)
        self.values: list[object] = [
            0,
            0,
            shape.valid_from_ms,
            shape.valid_until_ms,
            most_cells,
            len(self.checks),
            len(standing) + len(self.checks) - len(checks),
            len(scopes),
        ]
        for indices in scopes.values():
            self.values += [len(indices), _windows_ttl_ms(shape.policy, checks[indices[0]].limit.scope)]
        self.values += ["v", "due", *map(_field, self.checks)]
        self._fills: list[tuple[int, int, int | bool]] = []
        self._units_at: list[tuple[int, int]] = []
        self.takes: list[object] = []
        self._take_fills: list[tuple[int, int]] = []
        self.shadows: list[tuple[int, list[object], int]] = []
        numbers = {shape.names[place]: number for number, place in enumerate(shape.kept, start=1)}
        for number, check in enumerate(self.checks, start=1):
            self._units_at.append((check.meter, 0 if check.asks_room else check.fixed))
            self._add_check(check)
            self._add_take(number, check, numbers)

    def _add_check(self, check: CheckForm) -> None:
        limit = check.limit
        # A window or quota whose meter is settled keeps an entry even for 0, so that a report finds it.
        nothing = 0 if check.settles and limit.kind in {Kind.WINDOW, Kind.QUOTA} else False
        if check.meter >= 0 and not check.asks_room:
            self._fills.append((len(self.values) + 1, check.meter, nothing))
        take = nothing if check.asks_room else check.fixed or nothing
        self.values += [int(limit.kind), check.fixed, take, check.cap, _param(check), int(limit.shadow)]

    def _add_take(self, number: int, check: CheckForm, numbers: Mapping[str, int]) -> None:
        if not _is_kept(check):
            return
        amount = 0 if check.asks_room else check.fixed
        settled = numbers[check.limit.meter] if check.settles else 0
        take = [int(check.limit.kind), settled, _scope(check), _field(check), amount, 0, 0, 1, _hold_param(check)]
        if check.limit.shadow:
            self.shadows.append((number, take, check.meter))
            return
        if check.meter >= 0:
            self._take_fills.append((len(self.takes) + TAKE_AMOUNT, check.meter))
        if check.queue is not None:
            self.pool_param = len(self.takes) + TAKE_SIZE - 1
        self.takes += take

    def plan_values(self, now_ms: int, version: int, units: Sequence[int]) -> list[object]:
        """The plan's argument."""
        values = self.values.copy()
        values[0], values[1] = now_ms, version
        for at, meter, nothing in self._fills:
            unit = units[meter]
            values[at] = unit
            values[at + 1] = unit or nothing
        return values

    def taken(self, units: Sequence[int]) -> list[int]:
        """The units that a grant takes, per row."""
        return [fixed if meter < 0 else units[meter] for meter, fixed in self._units_at]

    def take_values(self, units: Sequence[int], pool_param: bytes | int | None = None) -> list[object]:
        """What a hold remembers of its takes; `pool_param` is what it remembers of a pool with a queue."""
        takes = self.takes.copy()
        if pool_param is not None:
            takes[self.pool_param] = pool_param
        for at, meter in self._take_fills:
            takes[at] = units[meter]
        return takes

    def shadow_values(self, units: Sequence[int]) -> list[object]:
        """The takes of shadow checks, each behind the number of its check."""
        values: list[object] = []
        for number, take, meter in self.shadows:
            amount = take[TAKE_AMOUNT] if meter < 0 else units[meter]
            values += [number, pack([*take[:TAKE_AMOUNT], amount, *take[TAKE_AMOUNT + 1 :]])]
        return values


class ForcedForm(ShapeForm):
    """The form of a shape that takes without asking: an amount of 0 always fits."""

    __slots__ = ()

    def plan_values(self, now_ms: int, version: int, units: Sequence[int]) -> list[object]:
        """The plan's argument."""
        values = super().plan_values(now_ms, version, units)
        for amount in range(len(values) - CHECK_SIZE * len(self.checks) + 1, len(values), CHECK_SIZE):
            values[amount] = 0
        return values


def form_of(shape: Shape, most_cells: int) -> ShapeForm:
    """The shape's form, made at its first use."""
    form = shape.memo.get(SHAPE)
    if form is None:
        form = shape.memo[SHAPE] = (ForcedForm if shape.forced else ShapeForm)(shape, most_cells)
    return cast("ShapeForm", form)


def replayed_looks(plan: Plan, record: bytes, most_cells: int) -> tuple[Look, ...]:
    """The figures of the grant that a record is of; none where the plan is another one or can no longer tell what they
    mean.

    The record has them as they were before the grant took what the plan asks for.
    """
    try:
        _, created_ms, _, _, figures, marks, *_ = unpack(record)
        if marks != plan.fingerprint + plan.shape.figures_key:
            return ()
        packed = PackedPlan(b"", [], form_of(plan.shape, most_cells))
        return packed.looks(figures, created_ms, packed.form.taken(plan.units))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        message = f"the figures of hold {plan.operation.request_id!r} are not readable: {error!r}"
        raise CorruptStateError(message) from error


def pack_plan(plan: Plan, tenant: keys.TenantKeys, now_ms: int, most_cells: int) -> PackedPlan:
    """A plan as the scripts' first argument."""
    form = form_of(plan.shape, most_cells)
    values = form.plan_values(now_ms, plan.account.version, plan.units)
    return PackedPlan(pack(values), [tenant.windows(text) for text in form.scopes], form)


def _field(check: CheckForm) -> str:
    return check.limit.cell if check.limit.kind is Kind.WINDOW else keys.standing_field(check)


def _scope(check: CheckForm) -> str:
    """Where a take's cell is: '' for standing cells, else what its key has behind the tenant's tag (`keys.lua`)."""
    return "w:" + keys.scope_text(check) if check.limit.kind is Kind.WINDOW else ""


def _param(check: CheckForm) -> int | str | bytes:
    """What a look needs beside the bound: a window's length, a balance's burn order, a quota's cycle with its terms
    (`quota.lua`), whether a pool's jobs are measured and their usual length (`pool.lua`).
    """
    limit = check.limit
    if isinstance(limit, Slots):
        return wire_queues.pool_param(limit, check.queue)
    if check.terms is not None:
        return quota_cells.packed_terms(check.terms)
    if isinstance(limit, Balance):
        return burn_order(limit) or 0
    return limit.window_ms if isinstance(limit, Window) else 0


def _hold_param(check: CheckForm) -> int | bytes:
    """What a hold remembers of the limit for its end: a balance's debt (-1 - debt with a ledger) and thresholds, a
    window's length (negative: `returns`), a quota's cycle and thresholds, whether a pool's jobs are measured.
    """
    limit = check.limit
    if isinstance(limit, Slots):
        return wire_queues.kept_param(limit, None if check.queue is None else Ticket(check.queue.ticket_ms))
    if isinstance(limit, Quota) and check.terms is not None:
        return quota_cells.packed_cycle(check.terms.start_ms, limit.thresholds)
    if isinstance(limit, Balance):
        bound = -1 - limit.debt if limit.ledger else limit.debt
        return pack([pack([bound, *check.marks])]) if check.marks else bound
    if isinstance(limit, Window):
        return -limit.window_ms if limit.returns else limit.window_ms
    return 0


def _windows_ttl_ms(policy: Policy, scope: tuple[str, ...]) -> int:
    """How long a scope's windows are kept after the last grant: twice the longest that shares the key."""
    return 2 * max(limit.window_ms for limit in policy.limits if isinstance(limit, Window) and limit.scope == scope)


def pack_reserve(
    plan: Plan, packed: PackedPlan, tenant: keys.TenantKeys, hold_id: str, ticket: Ticket | None = None
) -> list[bytes]:
    """What `reserve.lua` needs beside the plan: the request and the hold's record, then takes of shadow checks, then
    what it needs of a request that may wait, for which `ticket` is kept.
    """
    form, shape, units = packed.form, plan.shape, plan.units
    terms = plan.terms
    lease_ms = terms.granted_ms if plan.leaves_hold else 0
    marks = plan.fingerprint + shape.figures_key
    content: list[object] = [
        marks,
        terms.lease_ms if lease_ms else 0,
        terms.tombstone_ms,
        _note_of(plan),
        len(shape.kept),
    ]
    for place in shape.kept:
        content += (shape.names[place], units[place], -1, 0)
    pool = next((check.limit for check in form.checks if check.queue is not None), None) if ticket else None
    takes = form.take_values(units, wire_queues.kept_param(pool, ticket) if isinstance(pool, Slots) else None)
    count = len(takes) // TAKE_SIZE
    if not form.shadows:
        content += (count, *takes)
    request = pack(
        [
            int(shape.gated),
            hold_id,
            lease_ms,
            terms.longest_ms,
            terms.replay_ms,
            tenant.member,
            pack(content),
        ]
    )
    wait = [] if pool is None or ticket is None else [wire_queues.pack_wait(plan, pool.cell, ticket)]
    if form.shadows:
        return [request, pack([count, pack(takes), *form.shadow_values(units)]), *wait]
    return [request, b"", *wait] if wait else [request]


def pack_ticket(plan: Plan, hold_id: str, ticket: Ticket | None) -> bytes:
    """What `ticket.lua` needs beside the plan; without a ticket it is kept as it was."""
    pool = next((form.limit for form in plan.shape.checks if form.queue is not None), None)
    kept = wire_queues.kept_param(pool, ticket) if isinstance(pool, Slots) and ticket is not None else b""
    return pack([hold_id, kept])


def _is_kept(check: CheckForm) -> bool:
    """Whether a hold must remember the take: something may give it back or change it."""
    takes = not check.asks_room and (check.meter >= 0 or check.fixed > 0)
    if isinstance(check.limit, Window):
        return check.settles or (takes and check.limit.returns)
    return check.settles or takes


def _note_of(plan: Plan) -> bytes:
    """The note; where neither items nor paid time tell requests apart, all plans of a shape have the same."""
    if plan.operation.items or plan.policy.actions[plan.shape.action].hold.timed is not None:
        return _pack_note(plan.note)
    note = plan.shape.memo.get(NOTE)
    if note is None:
        note = plan.shape.memo[NOTE] = _pack_note(plan.note)
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
        return pack([*head, 1, len(delivered), *(value for total in delivered.items() for value in total)])
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
        *(value for total in used.items() for value in total),
        len(totals),
        *(value for total in totals.items() for value in total),
    ]
    for check in packed.form.checks if packed is not None else ():
        meter = numbers.get(check.limit.meter, 0) if check.settles else 0
        values += [meter, _scope(check), _hold_param(check)]
    return pack(values)


def burn_order(limit: Balance) -> str:
    """The order of sources as digits; empty where grants are not kept apart."""
    return "".join(str(source.value) for source in limit.burn)
