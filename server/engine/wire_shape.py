"""What all plans of a shape have in common on the wire, packed once: a request fills in its own amounts."""

from collections.abc import Sequence
from typing import Final, cast

import msgpack

from server.domain.limits.base import Kind, Look
from server.domain.limits.slots import Slots
from server.domain.plan import CheckForm, Shape
from server.engine import keys, wire_limits, wire_queues
from server.engine.sequences import Blank, Gap, array_head, pack, pack_one, picked

ROW: Final = 3
"""Numbers of a check in a script's answer."""

TAKE_SIZE: Final = 9
"""Values of a take in a hold's record."""

TAKE_AMOUNT: Final = 4
"""Where a take has its amount."""

FORM: Final = "wire.form"
"""Where a shape's memo has its form."""

_FALSE: Final = pack_one(False)  # noqa: FBT003  # it is the value


class ShapeForm:
    """A plan's argument and a hold's record as blanks; and how a script's rows become looks.

    What fills the blanks is a list of packed values: the time, the account's version, the request's units, and the
    units again as they are taken, which of some limits is false in place of 0; behind them, for the record, its marks,
    its lease, its note, and what it remembers of a pool with a queue.
    """

    __slots__ = (
        "_fixed",
        "_in_order",
        "_nothing",
        "_rows",
        "_rows_head",
        "_taken",
        "argument",
        "checks",
        "pool_param",
        "queued_pool",
        "record",
        "scopes",
        "shadows",
        "take_count",
        "takes",
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
        self._in_order = picked([places[index] for index in range(len(checks))])
        self._rows = [(check, wire_limits.look_of(check)) for check in self.checks]
        self._rows_head = array_head(len(self.checks) * ROW)
        self._nothing = [0] * len(self.checks)
        self.scopes = list(scopes)
        units = len(shape.names)
        self._fixed = [0 if check.asks_room else check.fixed for check in self.checks]
        units_at = [units + row if check.meter < 0 else check.meter for row, check in enumerate(self.checks)]
        self._taken = picked(units_at)
        pools = (check.limit for check in self.checks if check.queue is not None)
        self.queued_pool = next((pool for pool in pools if isinstance(pool, Slots)), None)
        values: list[object] = [
            Gap(0),
            Gap(1),
            shape.valid_from_ms,
            shape.valid_until_ms,
            most_cells,
            len(self.checks),
            len(standing) + len(self.checks) - len(checks),
            len(scopes),
        ]
        for indices in scopes.values():
            values += [len(indices), wire_limits.windows_ttl_ms(shape.policy, checks[indices[0]].limit.scope)]
        values += ["v", "due", *map(wire_limits.field, self.checks)]
        for check in self.checks:
            values += _check(check, units, forced=shape.forced)
        self.argument = Blank(values)
        self._remember(shape, 2 + 2 * units)

    def _remember(self, shape: Shape, behind: int) -> None:
        """Makes the record's blank; what is the record's alone is `behind` the other values."""
        marks, lease, note, pool = (Gap(behind + place) for place in range(4))
        record: list[object] = [marks, lease, shape.terms.tombstone_ms, note, len(shape.kept)]
        for place in shape.kept:
            record += (shape.names[place], Gap(2 + place), -1, 0)
        self.pool_param = b""
        self.shadows: list[tuple[int, list[object], int]] = []
        takes: list[object] = []
        numbers = {shape.names[place]: number for number, place in enumerate(shape.kept, start=1)}
        for number, check in enumerate(self.checks, start=1):
            if not wire_limits.is_kept(check):
                continue
            take = _take(check, numbers[check.limit.meter] if check.settles else 0)
            if check.limit.shadow:
                self.shadows.append((number, take, check.meter))
                continue
            if check.meter >= 0:
                take[TAKE_AMOUNT] = Gap(2 + check.meter)
            if check.queue is not None:
                self.pool_param, take[-1] = pack_one(take[-1]), pool
            takes += take
        self.take_count = len(takes) // TAKE_SIZE
        self.takes = Blank(takes)
        self.record = Blank(record if self.shadows else [*record, self.take_count, *takes])

    @staticmethod
    def packed(now_ms: int, version: int, units: Sequence[int]) -> list[bytes]:
        """What fills the argument."""
        own = list(map(pack_one, units))
        taken = own if 0 not in units else [packed if unit else _FALSE for packed, unit in zip(own, units, strict=True)]
        return [pack_one(now_ms), pack_one(version), *own, *taken]

    def shadow_takes(self, units: Sequence[int]) -> list[object]:
        """The takes of shadow checks, each behind the number of its check."""
        values: list[object] = []
        for number, take, meter in self.shadows:
            amount = take[TAKE_AMOUNT] if meter < 0 else units[meter]
            values += [number, pack([*take[:TAKE_AMOUNT], amount, *take[TAKE_AMOUNT + 1 :]])]
        return values

    def taken(self, units: Sequence[int]) -> Sequence[int]:
        """The units that a grant takes, per row."""
        return self._taken((*units, *self._fixed))

    def looks(self, rows: bytes, now_ms: int, taken: Sequence[int] = ()) -> tuple[Look, ...]:
        """A script's rows of `now_ms` as looks, in the plan's order; `taken` are the units taken since, per row."""
        numbers = iter(msgpack.unpackb(self._rows_head + rows))
        found = [
            look(check, first, second, wait_ms, 0 if wait_ms else units, now_ms)
            for (check, look), units, first, second, wait_ms in zip(
                self._rows, taken or self._nothing, numbers, numbers, numbers, strict=True
            )
        ]
        return self._in_order(found)


def form_of(shape: Shape, most_cells: int) -> ShapeForm:
    """The shape's form, made at its first use."""
    form = shape.memo.get(FORM)
    if form is None:
        form = shape.memo[FORM] = ShapeForm(shape, most_cells)
    return cast("ShapeForm", form)


def _check(check: CheckForm, units: int, *, forced: bool) -> list[object]:
    """A check's values in the plan's argument, of a request with so many units. Where a shape takes without asking, an
    amount of 0 always fits.
    """
    limit = check.limit
    # A window or quota whose meter is settled keeps an entry even for 0, so that a report finds it.
    keeps_nothing = check.settles and limit.kind in {Kind.WINDOW, Kind.QUOTA}
    amount: object = check.fixed
    take: object = (0 if check.asks_room else check.fixed) or (0 if keeps_nothing else False)
    if check.meter >= 0 and not check.asks_room:
        amount = Gap(2 + check.meter)
        take = amount if keeps_nothing else Gap(2 + units + check.meter)
    return [int(limit.kind), 0 if forced else amount, take, check.cap, wire_limits.param(check), int(limit.shadow)]


def _take(check: CheckForm, meter: int) -> list[object]:
    """A take's values in a hold's record, `meter` being the number of the one that it follows."""
    amount = 0 if check.asks_room else check.fixed
    cell = [wire_limits.scope(check), wire_limits.field(check)]
    return [int(check.limit.kind), meter, *cell, amount, 0, 0, 1, wire_limits.hold_param(check)]
