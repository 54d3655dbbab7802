"""The only place that knows positions: what goes to the scripts and what comes back.

Arguments and records are msgpack values one behind the other (`cmsgpack` in Lua); layouts stand in the headers of
`lua/include/checks.lua` and `lua/include/hold.lua` and are mirrored here by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgpack
import orjson

from server.domain.account import Account, Override
from server.domain.errors import CorruptStateError
from server.domain.hold import Delivered, Fraction, HoldNote, HoldView, MeterTotals, State
from server.domain.limits.balance import Balance
from server.domain.limits.base import Kind, Look
from server.domain.limits.quota import Quota
from server.domain.limits.window import Window
from server.domain.plan import CheckForm, Plan, Shape
from server.domain.policy import Policy
from server.engine import keys, quota_cells

_packer = msgpack.Packer(use_bin_type=False, autoreset=True)

FIXARRAY_MOST: Final = 15
ROW: Final = 5
METER_SIZE: Final = 4
TAKE_SIZE: Final = 9
TAKE_AMOUNT: Final = 4
"""Where a take has its amount."""


SHAPE: Final = "wire.form"
NOTE: Final = "wire.note"
"""Names in a shape's memo."""


def pack(values: Sequence[object]) -> bytes:
    """Values as msgpack, one behind the other."""
    packed: bytes = _packer.pack(values)
    return packed[1:] if len(values) <= FIXARRAY_MOST else packed[3:]


def unpack(raw: bytes) -> list[Any]:
    """The values of a msgpack sequence; strings as bytes."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(raw)
    return list(unpacker)


class PackedPlan(NamedTuple):
    """A plan for the scripts: the argument, the keys of its window scopes, and the form of its shape."""

    argument: bytes
    window_keys: list[bytes]
    form: "ShapeForm"

    def looks(self, rows: bytes) -> tuple[Look, ...]:
        """The script's rows as looks, in the plan's order."""
        flat = msgpack.unpackb(rows)
        return tuple([Look._make(flat[at : at + ROW]) for at in self.form.rows])


class ShapeForm:
    """What all plans of a shape have in common on the wire; `SHAPE` finds it in the shape's memo.

    Lists with the shape's constants, and the places in them that a request's own amounts go to: filling and packing
    a list costs less than making it.
    """

    __slots__ = ("_fills", "_take_fills", "checks", "content", "order", "rows", "scopes", "shadows", "takes", "values")

    def __init__(self, shape: Shape, most_cells: int) -> None:
        checks = shape.checks
        standing = [index for index, check in enumerate(checks) if check.limit.kind is not Kind.WINDOW]
        scopes: dict[str, list[int]] = {}
        for index, check in enumerate(checks):
            if check.limit.kind is Kind.WINDOW:
                scopes.setdefault(keys.scope_text(check), []).append(index)
        self.order = standing + [index for indices in scopes.values() for index in indices]
        self.checks = [checks[index] for index in self.order]
        self.rows = [self.order.index(index) * ROW for index in range(len(checks))]
        self.scopes = list(scopes)
        self.values: list[object] = [
            0,
            0,
            shape.valid_from_ms,
            shape.valid_until_ms,
            most_cells,
            len(standing),
            len(scopes),
        ]
        for indices in scopes.values():
            self.values += [len(indices), _windows_ttl_ms(shape.policy, checks[indices[0]].limit.scope)]
        self._fills: list[tuple[int, int, int | bool]] = []
        self.content: list[object] = []
        self.takes: list[object] = []
        self._take_fills: list[tuple[int, int]] = []
        self.shadows: list[tuple[int, list[object], int]] = []
        numbers = {shape.names[place]: number for number, place in enumerate(shape.kept, start=1)}
        for number, check in enumerate(self.checks, start=1):
            self._add_check(check)
            self._add_take(number, check, numbers)

    def _add_check(self, check: CheckForm) -> None:
        limit = check.limit
        # A window or quota whose meter is settled keeps an entry even for 0, so that a report finds it.
        nothing = 0 if check.settles and limit.kind in {Kind.WINDOW, Kind.QUOTA} else False
        if check.meter >= 0 and not check.asks_room:
            self._fills.append((len(self.values) + 2, check.meter, nothing))
        take = nothing if check.asks_room else check.fixed or nothing
        self.values += [int(limit.kind), _field(check), check.fixed, take, check.cap, _param(check), int(limit.shadow)]

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

    def take_values(self, units: Sequence[int]) -> list[object]:
        """What a hold remembers of its takes."""
        takes = self.takes.copy()
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


def form_of(shape: Shape, most_cells: int) -> ShapeForm:
    """The shape's form, made at its first use."""
    form = shape.memo.get(SHAPE)
    if form is None:
        form = shape.memo[SHAPE] = ShapeForm(shape, most_cells)
    return cast("ShapeForm", form)


def rows_to_looks(rows: bytes) -> list[Look]:
    """Rows of five numbers, as the scripts pack them."""
    flat = msgpack.unpackb(rows)
    return [Look._make(flat[at : at + ROW]) for at in range(0, len(flat), ROW)]


def pack_plan(plan: Plan, tenant: keys.TenantKeys, now_ms: int, most_cells: int) -> PackedPlan:
    """A plan as the scripts' first argument."""
    form = form_of(plan.shape, most_cells)
    values = form.plan_values(now_ms, plan.account.version, plan.units)
    return PackedPlan(pack(values), [tenant.windows(text) for text in form.scopes], form)


def _field(check: CheckForm) -> str:
    return check.limit.cell if check.limit.kind is Kind.WINDOW else keys.standing_field(check)


def _scope(check: CheckForm) -> str:
    """Where a take's cell is: '' for standing cells, '/' and the scope's text for windows (`keys.lua`)."""
    return "/" + keys.scope_text(check) if check.limit.kind is Kind.WINDOW else ""


def _param(check: CheckForm) -> int | str | bytes:
    """What a look needs beside the bound: a window's length, a balance's burn order, a quota's cycle with its terms
    (`quota.lua`).
    """
    limit = check.limit
    if check.terms is not None:
        return quota_cells.packed_terms(check.terms)
    if isinstance(limit, Balance):
        return burn_order(limit) or 0
    return limit.window_ms if isinstance(limit, Window) else 0


def _hold_param(check: CheckForm) -> int | bytes:
    """What a hold remembers of the limit for its end: a balance's debt (-1 - debt with a ledger), a window's length
    (negative: `returns`), a quota's cycle and thresholds.
    """
    limit = check.limit
    if isinstance(limit, Quota) and check.terms is not None:
        return quota_cells.packed_cycle(check.terms.start_ms, limit.thresholds)
    if isinstance(limit, Balance):
        return -1 - limit.debt if limit.ledger else limit.debt
    if isinstance(limit, Window):
        return -limit.window_ms if limit.returns else limit.window_ms
    return 0


def _windows_ttl_ms(policy: Policy, scope: tuple[str, ...]) -> int:
    """How long a scope's windows are kept after the last grant: twice the longest that shares the key."""
    return 2 * max(limit.window_ms for limit in policy.limits if isinstance(limit, Window) and limit.scope == scope)


def pack_reserve(plan: Plan, packed: PackedPlan, tenant: keys.TenantKeys, hold_id: str) -> list[bytes]:
    """What `reserve.lua` needs beside the plan: the request and the hold's record, then takes of shadow checks."""
    form, shape, units = packed.form, plan.shape, plan.units
    terms = plan.terms
    lease_ms = terms.lease_ms if plan.leaves_hold else 0
    content: list[object] = [plan.fingerprint, lease_ms, terms.tombstone_ms, _note_of(plan, form), len(shape.kept)]
    for place in shape.kept:
        content += (shape.names[place], units[place], -1, 0)
    takes = form.take_values(units)
    request = pack(
        [
            int(shape.gated),
            hold_id,
            lease_ms,
            terms.longest_ms,
            terms.replay_ms,
            tenant.member,
            pack(content),
            len(takes) // TAKE_SIZE,
            pack(takes),
        ]
    )
    return [request, pack(form.shadow_values(units))] if form.shadows else [request]


def _is_kept(check: CheckForm) -> bool:
    """Whether a hold must remember the take: something may give it back or change it."""
    takes = not check.asks_room and (check.meter >= 0 or check.fixed > 0)
    if isinstance(check.limit, Window):
        return check.settles or (takes and check.limit.returns)
    return check.settles or takes


def _note_of(plan: Plan, form: ShapeForm) -> bytes:
    """The note; without items all plans of a shape have the same."""
    places = [check.place for check in form.checks]
    if plan.operation.items:
        return _pack_note(plan.note, places)
    note = plan.shape.memo.get(NOTE)
    if note is None:
        note = plan.shape.memo[NOTE] = _pack_note(plan.note, places)
    return cast("bytes", note)


def _pack_note(note: HoldNote, places: Iterable[int]) -> bytes:
    packed: bytes = _packer.pack(
        [
            note.action,
            note.policy_version,
            dict(note.scope),
            list(places),
            {item: dict(prices) for item, prices in note.item_prices.items()},
        ]
    )
    return packed


def pack_settle(now_ms: int, hold_id: str, delivered: Delivered, *, final: bool) -> bytes:
    """The argument of `settle.lua`; items have been turned into totals before."""
    head: list[object] = [now_ms, hold_id, int(final)]
    if isinstance(delivered, Fraction):
        return pack([*head, 2, delivered.delivered, delivered.reserved])
    if isinstance(delivered, Mapping):
        return pack([*head, 1, len(delivered), *(value for total in delivered.items() for value in total)])
    return pack([*head, 0])


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


def account_record(account: Account) -> bytes:
    """An account as stored: JSON with sorted keys, so that equal accounts have equal bytes."""
    return orjson.dumps(
        {
            "plan": account.plan,
            "created_at_ms": account.created_at_ms,
            "flags": dict(account.flags),
            "overrides": [[o.limit_id, o.value, o.expires_at_ms] for o in account.overrides],
            "lifetime_purchased_usd_micros": account.lifetime_purchased_usd_micros,
            "version": account.version,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def account_of(record: bytes) -> Account | None:
    """A stored account; None for an empty record."""
    if not record:
        return None
    try:
        fields = orjson.loads(record)
        return Account(
            plan=fields["plan"],
            created_at_ms=fields["created_at_ms"],
            flags=fields["flags"],
            overrides=tuple(Override(*override) for override in fields["overrides"]),
            lifetime_purchased_usd_micros=fields["lifetime_purchased_usd_micros"],
            version=fields["version"],
        )
    except (ValueError, KeyError, TypeError) as error:
        message = f"an account record is not readable: {error!r}"
        raise CorruptStateError(message) from error


def hold_of(hold_id: str, record: bytes) -> HoldView:
    """A stored hold or tombstone."""
    try:
        state, created, lease_end, longest_end, rows, fingerprint, lease_ms, _, note, meters, *rest = unpack(record)
        action, version, scope, places, prices = msgpack.unpackb(note)
        return HoldView(
            hold_id=hold_id,
            state=State(state),
            fingerprint=fingerprint,
            created_at_ms=created,
            lease_ends_at_ms=lease_end,
            longest_ends_at_ms=longest_end,
            lease_ms=lease_ms,
            meters=dict(_meter_totals(rest[: meters * METER_SIZE])),
            looks=dict(zip(places, rows_to_looks(rows), strict=True)),
            note=HoldNote(action=action, policy_version=version, scope=scope, item_prices=prices),
        )
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        message = f"hold {hold_id!r} is not readable: {error!r}"
        raise CorruptStateError(message) from error


def _meter_totals(flat: Sequence[Any]) -> Iterable[tuple[str, MeterTotals]]:
    for at in range(0, len(flat), METER_SIZE):
        name, reserved, reported, uncollected = flat[at : at + METER_SIZE]
        yield name.decode(), MeterTotals(reserved, reported if reported >= 0 else None, uncollected)


def burn_order(limit: Balance) -> str:
    """The order of sources as digits; empty where grants are not kept apart."""
    return "".join(str(source.value) for source in limit.burn)
