"""The only place that knows positions: what goes to the scripts and what comes back.

Arguments and records are msgpack values one behind the other (`cmsgpack` in Lua); layouts stand in the headers of
`lua/include/checks.lua` and `lua/include/hold.lua` and are mirrored here by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack
import orjson

from server.domain.account import Account, Override
from server.domain.errors import CorruptStateError
from server.domain.hold import Delivered, Fraction, HoldNote, HoldView, MeterTotals, State
from server.domain.limits.balance import Balance
from server.domain.limits.base import Check, Kind, Limit, Look
from server.domain.limits.window import Window
from server.domain.plan import Plan
from server.domain.policy import Policy
from server.engine import keys
from server.engine.base import AccountWrite

_packer = msgpack.Packer(use_bin_type=False, autoreset=True)

FIXARRAY_MOST: Final = 15
ROW: Final = 5
METER_SIZE: Final = 4
TAKE_SIZE: Final = 9


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
    """A plan for the scripts: the argument, the keys of its window scopes, and which check each row belongs to."""

    argument: bytes
    window_keys: list[bytes]
    order: list[int]

    def looks(self, rows: bytes) -> tuple[Look, ...]:
        """The script's rows as looks, in the plan's order."""
        looks: list[Look | None] = [None] * len(self.order)
        for index, look in zip(self.order, rows_to_looks(rows), strict=True):
            looks[index] = look
        return tuple(look for look in looks if look is not None)


def rows_to_looks(rows: bytes) -> list[Look]:
    """Rows of five numbers, as the scripts pack them."""
    flat = msgpack.unpackb(rows)
    return [Look(*flat[at : at + ROW]) for at in range(0, len(flat), ROW)]


def pack_plan(plan: Plan, tenant: keys.TenantKeys, now_ms: int, most_cells: int) -> PackedPlan:
    """A plan as the scripts' first argument."""
    standing = [index for index, check in enumerate(plan.checks) if check.limit.kind is not Kind.WINDOW]
    scopes: dict[str, list[int]] = {}
    for index, check in enumerate(plan.checks):
        if check.limit.kind is Kind.WINDOW:
            scopes.setdefault(keys.scope_text(check), []).append(index)
    values: list[object] = [
        now_ms,
        plan.account.version,
        plan.valid_from_ms,
        plan.valid_until_ms,
        most_cells,
        len(standing),
        len(scopes),
    ]
    for indices in scopes.values():
        values += [
            len(indices),
            _windows_ttl_ms(plan.policy, plan.checks[indices[0]].limit.scope),
        ]
    order = standing + [index for indices in scopes.values() for index in indices]
    for index in order:
        values += _packed_check(plan.checks[index])
    return PackedPlan(pack(values), [tenant.windows(text) for text in scopes], order)


def _packed_check(check: Check) -> list[object]:
    limit = check.limit
    window_ms = limit.window_ms if isinstance(limit, Window) else 0
    return [
        int(limit.kind),
        _field(check),
        check.amount,
        check.take if check.take or (check.settles and window_ms) else False,
        check.cap,
        window_ms,
        int(limit.shadow),
    ]


def _field(check: Check) -> str:
    return check.limit.cell if check.limit.kind is Kind.WINDOW else keys.standing_field(check)


def _scope(check: Check) -> str:
    """Where a take's cell is: '' for standing cells, '/' and the scope's text for windows (`keys.lua`)."""
    return "/" + keys.scope_text(check) if check.limit.kind is Kind.WINDOW else ""


def _hold_param(limit: Limit) -> int:
    """What a hold remembers of the limit for its end: a balance's debt, a window's length (negative: `returns`)."""
    if isinstance(limit, Balance):
        return limit.debt
    if isinstance(limit, Window):
        return -limit.window_ms if limit.returns else limit.window_ms
    return 0


def _windows_ttl_ms(policy: Policy, scope: tuple[str, ...]) -> int:
    """How long a scope's windows are kept after the last grant: twice the longest that shares the key."""
    return 2 * max(limit.window_ms for limit in policy.limits if isinstance(limit, Window) and limit.scope == scope)


def pack_reserve(plan: Plan, packed: PackedPlan, tenant: keys.TenantKeys, hold_id: str) -> list[bytes]:
    """What `reserve.lua` needs beside the plan: the request and the hold's record, then takes of shadow checks."""
    terms = plan.terms
    numbers = {meter: number for number, meter in enumerate(plan.meters, start=1)}
    content: list[object] = [
        plan.operation.fingerprint(),
        terms.lease_ms if plan.leaves_hold else 0,
        terms.tombstone_ms,
        _pack_note(plan.note, [plan.checks[index].place for index in packed.order]),
        len(plan.meters),
    ]
    for meter, reserved in plan.meters.items():
        content += [meter, reserved, -1, 0]
    takes: list[object] = []
    shadows: list[object] = []
    for number, index in enumerate(packed.order, start=1):
        check = plan.checks[index]
        if _is_kept(check):
            take = _packed_take(check, numbers)
            if check.limit.shadow:
                shadows += [number, pack(take)]
            else:
                takes += take
    request = pack(
        [
            int(plan.gated),
            hold_id,
            terms.lease_ms if plan.leaves_hold else 0,
            terms.longest_ms,
            terms.replay_ms,
            tenant.member,
            pack(content),
            len(takes) // TAKE_SIZE,
            pack(takes),
        ]
    )
    return [request, pack(shadows)] if shadows else [request]


def _is_kept(check: Check) -> bool:
    """Whether a hold must remember the take: something may give it back or change it."""
    if isinstance(check.limit, Window):
        return check.settles or bool(check.take and check.limit.returns)
    return check.settles or bool(check.take)


def _packed_take(check: Check, numbers: Mapping[str, int]) -> list[object]:
    return [
        int(check.limit.kind),
        numbers[check.limit.meter] if check.settles else 0,
        _scope(check),
        _field(check),
        check.take,
        0,
        0,
        1,
        _hold_param(check.limit),
    ]


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
    hold_id: str, used: Mapping[str, int], raised: Plan | None, packed: PackedPlan, meters: Iterable[str]
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
    for index in packed.order:
        check = raised.checks[index] if raised is not None else None
        if check is not None:
            meter = numbers.get(check.limit.meter, 0) if check.settles else 0
            values += [meter, _scope(check), _hold_param(check.limit)]
    return pack(values)


def pack_account_write(write: AccountWrite) -> bytes:
    """The argument of `account.lua`."""
    replaces = write.account is not None
    return pack(
        [
            int(replaces),
            write.expected_version,
            account_record(write.account) if write.account is not None else b"",
            write.write_id,
            write.fingerprint,
            len(write.grants),
            *(value for grant in write.grants.items() for value in grant),
        ]
    )


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
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        message = f"hold {hold_id!r} is not readable: {error!r}"
        raise CorruptStateError(message) from error


def _meter_totals(flat: Sequence[Any]) -> Iterable[tuple[str, MeterTotals]]:
    for at in range(0, len(flat), METER_SIZE):
        name, reserved, reported, uncollected = flat[at : at + METER_SIZE]
        yield name.decode(), MeterTotals(reserved, reported if reported >= 0 else None, uncollected)
