"""What must hold after every step, kept in step with the store: each change is looked at, and what it touches.

Of the contract's invariants: 2 and 3 (what cells hold is what live holds took), 5 (what changes nothing changes
nothing), 7 (one end for each hold), and of 1 that money moves only where a reason for it is known, to the unit. The
whole store is held against `tests.store_state` at the end of each episode.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from server.domain.hold import LIVE, TRANSITIONS, State
from tests.simulation.samples import Moved, RecordName, check_samples
from tests.simulation.store import Change
from tests.store_state import BALANCE, BALANCE_FIELDS, NO_HOLDS, QUOTA, StoredHold, balance_of, held_in, kind_of

MOVES: Final = {(state, to) for (state, _), to in TRANSITIONS.items() if isinstance(to, State)}
"""The moves of a hold from state to state."""

APPLIES: Final[Mapping[str, Callable[[Sequence[Any]], bool]]] = {
    "reserve": lambda reply: reply[0] in {1, 6},
    "settle": lambda reply: reply[0] == 1,
    "release": lambda reply: reply[0] == 1,
    "extend": lambda reply: reply[0] in {0, 1},
    "account": lambda reply: reply[0] == 1,
    "deallocate": lambda reply: reply[0] == 1,
    "reset": lambda reply: reply[0] == 1,
    "adjust": lambda reply: reply[0] == 1,
    "trim": lambda reply: reply[1] > 0,
    "reap": lambda _: True,
    "ticket": lambda reply: reply[0] in {1, 2},
    "renew": lambda reply: reply[0] == 1,
    "record": lambda reply: reply[0] == 1,
}
"""Per script, whether a reply says that something was changed; what is not named here changes nothing."""

TAKE_NOTHING: Final = frozenset({"settle", "release", "deallocate", "reap", "reset", "trim"})
"""Scripts that may still find something of a tenant that is being deleted, and change it before it goes."""

_HEADS: Final = {b"v", b"due"}


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class _Hold:
    """A hold as last written, and what it has charged to each balance."""

    record: StoredHold
    takes: list[tuple[Any, ...]]
    """Those of the record, or the last ones that there were."""

    def charged(self) -> dict[bytes, int]:
        """Units by balance that its reports came to, charged or uncollected."""
        totals: dict[bytes, int] = defaultdict(int)
        for kind, meter, _, cell, amount, _, base, last, _ in self.takes:
            if kind == BALANCE and meter:
                beyond = max(max(self.record.meters[meter - 1][2], 0) - base, 0)
                totals[cell] += beyond if last else min(beyond, amount)
        return totals


@dataclass
class _Tenant:
    """Mirrors of what a tenant has, and sums over it."""

    holds: dict[bytes, _Hold] = field(default_factory=dict)
    cells: dict[bytes, bytes] = field(default_factory=dict)
    due: dict[bytes, int] = field(default_factory=dict)
    held: dict[tuple[int, bytes], int] = field(default_factory=lambda: defaultdict(int))
    """By kind and field, what live holds have taken."""
    is_closed: bool = False
    """Whether it is being deleted."""


class Books:
    """All tenants of a store, from its first change on."""

    def __init__(self) -> None:
        self._tenants: dict[bytes, _Tenant] = defaultdict(_Tenant)
        self._values: dict[tuple[bytes, bytes], bytes | int | None] = {}

    def check(
        self, script: str, reply: Sequence[Any], changes: Iterable[Change], units: Mapping[str, int] | None
    ) -> None:
        """Books what a script changed. `units` is what an account's write adds to each balance; None if not known."""
        before: dict[tuple[bytes, bytes], tuple[str, bytes | int | None]] = {}
        for kind, key, name, value in changes:
            place = key, name
            if kind == "e":
                self._forget(key)
                continue
            before.setdefault(place, (kind, self._values.get(place)))
            self._values[place] = value
        net = [(kind, *place, was) for place, (kind, was) in before.items() if self._values[place] != was]
        applies = APPLIES.get(script)
        if net and (applies is None or not applies(reply)) and not _only_windows(script, net):
            raise Violation(f"{script} answered {reply!r} and changed {net}")
        by_tenant = defaultdict(list)
        for kind, key, name, was in net:
            prefix, _, rest = key.partition(b"}:")
            if b"/" in prefix:
                by_tenant[prefix].append((kind, rest, name, was))
        for prefix, own in by_tenant.items():
            tenant = self._tenants[prefix]
            if not tenant.is_closed:
                self._book(tenant, prefix, script, own, units)
            elif script not in TAKE_NOTHING:
                raise Violation(f"{script} changed {own} of a tenant that is being deleted")

    def close(self, prefix: bytes, left: Callable[[bytes], bool]) -> None:
        """The deletion of a tenant begins, and ends its open holds; `left` tells whether a key is there."""
        tenant = self._tenants[prefix]
        open_ones = [hold_id for hold_id, hold in tenant.holds.items() if hold.record.state in LIVE]
        kept = [hold_id for hold_id in open_ones if left(prefix + b"}:h:" + hold_id)]
        if kept or left(prefix + b"}:due"):
            raise Violation(f"the deletion of {prefix!r} begins with open holds: {kept}")
        tenant.is_closed = True

    def forget(self, prefix: bytes) -> None:
        """A tenant is gone: who comes under its name is new."""
        self._tenants[prefix] = _Tenant()
        self._values = {place: value for place, value in self._values.items() if not place[0].startswith(prefix + b"}")}

    def _forget(self, key: bytes) -> None:
        """A record's time is over."""
        self._values[key, b""] = None
        prefix, _, rest = key.partition(b"}:")
        hold = self._tenants[prefix].holds.pop(rest.removeprefix(b"h:"), None)
        if hold is not None and hold.record.state in LIVE and not self._tenants[prefix].is_closed:
            raise Violation(f"{key!r} was open, and is gone")

    def _book(
        self,
        tenant: _Tenant,
        prefix: bytes,
        script: str,
        net: Sequence[tuple[str, bytes, bytes, bytes | int | None]],
        units: Mapping[str, int] | None,
    ) -> None:
        touched: set[bytes] = set()
        charged: dict[bytes, int] = defaultdict(int)
        ended_or_moved: set[bytes] = set()
        cells: dict[bytes, bytes | None] = {}
        samples: dict[RecordName, Moved] = {}
        for kind, rest, name, was in net:
            value = self._values[prefix + b"}:" + rest, name]
            if rest[:2] == b"u:":
                samples[rest[2:], name] = was, value  # type: ignore[assignment]  # a hash's values
            if rest == b"cells":
                cells[name] = was  # type: ignore[assignment]  # a hash's value
                touched.add(name)
            elif rest == b"due":
                ended_or_moved.add(name)
                if value is None:
                    tenant.due.pop(name, None)
                else:
                    tenant.due[name] = int(value)
            elif kind == "s" and rest[:2] == b"h:":
                hold_id = rest[2:]
                ended_or_moved.add(hold_id)
                self._book_hold(tenant, hold_id, value, touched, charged)  # type: ignore[arg-type]  # a string
        for hold_id in ended_or_moved:
            hold = tenant.holds.get(hold_id)
            lease_end = hold.record.lease_end if hold is not None and hold.record.state in LIVE else None
            waits = hold is not None and hold.record.state == State.QUEUED and hold_id in tenant.due
            if hold_id not in NO_HOLDS and tenant.due.get(hold_id) != lease_end and not waits:
                raise Violation(f"{hold_id!r} is due at {tenant.due.get(hold_id)}, and its lease ends at {lease_end}")
        self._check_cells(tenant, prefix, touched)
        after = [(was, self._values[prefix + b"}:cells", name]) for name, was in cells.items() if name not in _HEADS]
        quotas = [(was, raw) for was, raw in after if isinstance(raw, bytes) and kind_of(raw) == QUOTA]
        stored = partial(self._stored_samples, prefix)
        if wrong := check_samples(script, samples, quotas, stored):
            raise Violation(wrong)
        _check_money(script, cells, {name: self._values[prefix + b"}:cells", name] for name in cells}, charged, units)

    def _book_hold(
        self, tenant: _Tenant, hold_id: bytes, raw: bytes | None, touched: set[bytes], charged: dict[bytes, int]
    ) -> None:
        """Notes a hold's step: whether it may be made, what it takes and gives back, what it charges."""
        old = tenant.holds.pop(hold_id, None)
        before = old.charged() if old is not None else {}
        if old is not None and old.record.state in LIVE:
            for kind, cell, units in old.record.kept():
                tenant.held[kind, cell] -= units
                touched.add(cell)
        if raw is None:
            raise Violation(f"hold {hold_id!r} is gone before its time")
        record = StoredHold.parse(raw)
        state = State(record.state)
        if old is None:
            if state not in {State.ACTIVE, State.QUEUED, State.DONE}:
                raise Violation(f"hold {hold_id!r} begins as {state.name}")
        elif record.created != old.record.created or (State(old.record.state), state) not in MOVES:
            raise Violation(f"hold {hold_id!r} went from {State(old.record.state).name} to {state.name}")
        hold = _Hold(record, record.takes or (old.takes if old is not None else []))
        tenant.holds[hold_id] = hold
        if state in LIVE:
            for kind, cell, units in record.kept():
                tenant.held[kind, cell] += units
                touched.add(cell)
        for cell, total in hold.charged().items():
            charged[cell] += total - before.get(cell, 0)

    def _stored_samples(self, prefix: bytes, name: RecordName) -> bytes | None:
        return self._values.get((prefix + b"}:u:" + name[0], name[1]))  # type: ignore[return-value]  # a hash's value

    def _check_cells(self, tenant: _Tenant, prefix: bytes, touched: set[bytes]) -> None:
        """What the touched cells hold is what live holds have taken from them."""
        for name in touched - _HEADS:
            raw = self._values.get((prefix + b"}:cells", name))
            if raw is None:
                left = [key for key, units in tenant.held.items() if key[1] == name and units]
                if left:
                    raise Violation(f"cell {name!r} is gone, and live holds have taken from it: {left}")
                continue
            assert isinstance(raw, bytes)
            kind, held = kind_of(raw), held_in(raw)
            if held != tenant.held[kind, name]:
                raise Violation(f"cell {name!r} has {held} held, and its live holds {tenant.held[kind, name]}")
        earliest = min(tenant.due.values(), default=None)
        noted = self._values.get((prefix + b"}:cells", b"due"))
        if earliest is not None and (noted is None or int(noted) > earliest):
            raise Violation(f"{prefix!r} notes {noted!r} as its earliest lease end, and that is {earliest}")


def _only_windows(script: str, net: Sequence[tuple[str, bytes, bytes, object]]) -> bool:
    """Windows that moved back with the clock may be written by a refusal."""
    return script == "reserve" and all(kind == "h" and b"}:w:" in key for kind, key, *_ in net)


def _check_money(
    script: str,
    before: Mapping[bytes, bytes | None],
    after: Mapping[bytes, bytes | int | None],
    charged: Mapping[bytes, int],
    units: Mapping[str, int] | None,
) -> None:
    """Every change of a balance's totals has its reason."""
    for name in {*before, *charged}:
        raw, was = after.get(name), before.get(name)
        if name in before and not (isinstance(raw, bytes) and len(raw) >= 49 and kind_of(raw) == BALANCE):  # its totals
            continue
        change = dict.fromkeys(BALANCE_FIELDS, 0)
        if isinstance(raw, bytes):
            old = balance_of(was) if was else change
            change = {total: value - old[total] for total, value in balance_of(raw).items()}
        moved = change["charged"] + change["uncollected"]
        if moved != charged.get(name, 0):
            raise Violation(f"{script}: {charged.get(name, 0)} were delivered to {name!r}, and {change} was booked")
        if script == "account" and units is not None:
            wanted = units.get(name.decode(), 0)
            if change["granted"] != max(wanted, 0) or not 0 <= change["reversed"] <= max(-wanted, 0):
                raise Violation(f"{wanted} came to {name!r}, and {change} was booked")
        elif script not in {"account", "reap", "adjust"} and (change["granted"] or change["reversed"]):
            raise Violation(f"{script} made money in {name!r}: {change}")
