"""What stands in a real store, read past the engine: snapshots, and the rules that it must keep at every moment.

Decodes holds and cells by itself instead of asking `server.engine.wire`, so that one mistake cannot hide another.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgpack

ACTIVE: Final = 1
QUEUED: Final = 7
NO_HOLDS: Final = {b"", b"\x01"}
"""What is due besides holds."""

LIVE: Final = (ACTIVE, QUEUED, 8)
NEVER: Final = 2**53 - 1
SLOTS: Final = 4
BALANCE: Final = 5
QUOTA: Final = 6
COUNT: Final = 7
COUNT_SIZE: Final = 15
BALANCE_FIELDS: Final = ("granted", "reversed", "charged", "held", "expired", "uncollected", "debt")
TOTALS_SIZE: Final = 7 * len(BALANCE_FIELDS)
QUOTA_SIZES: Final = (6, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 1)
QUOTA_FIELDS: Final = (
    *("start", "end", "limit", "allowed", "grace_ms", "price"),
    *("within", "overage", "grace", "over_hard", "held", "exhausted_at", "noted"),
)
METERS_AT: Final = 9
TAKE_SIZE: Final = 9


class Commanded(Protocol):
    """A store, real or simulated, that runs commands past every client under test."""

    def command(self, *words: bytes | str | int) -> Any:  # noqa: ANN401  # whatever the command answers
        """A command's reply."""

    def commands(self, several: Sequence[Sequence[bytes | str | int]]) -> list[Any]:
        """The replies to several."""


Snapshot = dict[bytes, tuple[bytes, object, bool]]
"""Per key: type, content in an order that does not depend on its encoding, whether it has a TTL."""

LASTS: Final = frozenset(
    {b"acct", b"ids", b"ledger", b"trimmed", b"grants", b"note", b"noted", b"told", b"since", b"alloc", b"acts"}
)
"""What of a tenant or of the webhook is kept for ever."""

WALKS: Final = b"hg:{walks}:"
"""How keys begin that tell of walks over all tenants."""

READ: Final = {
    b"string": ("GET", "{key}"),
    b"hash": ("HGETALL", "{key}"),
    b"zset": ("ZRANGE", "{key}", 0, -1, "WITHSCORES"),
    b"set": ("SMEMBERS", "{key}"),
    b"list": ("LRANGE", "{key}", 0, -1),
    b"stream": ("XRANGE", "{key}", "-", "+"),
}


def snapshot(store: Commanded) -> Snapshot:
    """Everything in the store, but for what a server writes by itself when it starts."""
    state: Snapshot = {}
    names = [key for key in sorted(store.command("KEYS", "*")) if not key.startswith(WALKS)]
    kinds = store.commands([("TYPE", key) for key in names]) if names else []
    reads = [[key if word == "{key}" else word for word in READ[kind]] for key, kind in zip(names, kinds, strict=True)]
    ttls = [("PTTL", key) for key in names]
    found = store.commands([*reads, *ttls]) if names else []
    contents = zip(names, kinds, found[: len(names)], found[len(names) :], strict=True)
    for key, kind, raw, ttl_ms in contents:
        content = dict(zip(raw[::2], raw[1::2], strict=True)) if kind in {b"hash", b"zset"} else raw
        state[key] = (kind, content, ttl_ms >= 0)
    return state


@dataclass(frozen=True)
class StoredHold:
    """A hold's record, as far as the rules need it."""

    state: int
    created: int
    lease_end: int
    meters: list[tuple[bytes, int, int, int]]
    takes: list[tuple[Any, ...]]

    @classmethod
    def parse(cls, raw: bytes) -> "StoredHold":
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(raw)
        values = list(unpacker)
        meters_end = METERS_AT + 1 + values[METERS_AT] * 4
        takes = values[meters_end + 1 :]
        assert len(takes) == values[meters_end] * TAKE_SIZE
        return cls(
            state=values[0],
            created=values[1],
            lease_end=values[1] + values[2],
            meters=[tuple(values[at : at + 4]) for at in range(METERS_AT + 1, meters_end, 4)],
            takes=[tuple(takes[at : at + TAKE_SIZE]) for at in range(0, len(takes), TAKE_SIZE)],
        )

    def kept(self) -> Iterator[tuple[int, bytes, int]]:
        """Kind, field and units of each standing cell that it still holds."""
        for kind, meter, _, field, amount, _, base, last, param in self.takes:
            reported = max(self.meters[meter - 1][2], 0) if meter else 0
            beyond = max(reported - base, 0)
            charged = beyond if last else min(beyond, amount)
            if kind == SLOTS and self.state == QUEUED and param and len(param) > 1:
                continue  # it waits for this place
            if kind in {SLOTS, BALANCE, QUOTA, COUNT}:
                yield kind, field, amount if kind in {SLOTS, COUNT} else max(amount - charged, 0)


def is_balance(raw: bytes) -> bool:
    """Whether a cell is a balance: its totals, and behind them the grants that it keeps apart."""
    return len(raw) == TOTALS_SIZE or (raw[TOTALS_SIZE : TOTALS_SIZE + 1] == b"\xa3" and is_order(raw))


def is_order(raw: bytes) -> bool:
    """Whether the sources' digits stand where a balance has its burn order."""
    return sorted(raw[TOTALS_SIZE + 1 : TOTALS_SIZE + 4]) == sorted(b"123")


def grants_of(raw: bytes) -> list[tuple[int, int, int]]:
    """Source, expiry and what is left of each grant that a balance keeps apart."""
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(raw[TOTALS_SIZE:])
    values = list(unpacker)[2:]
    return [(values[at], values[at + 1], values[at + 2]) for at in range(0, len(values), 3)]


def balance_of(raw: bytes) -> dict[str, int]:
    """A balance cell by the names of its totals."""
    assert is_balance(raw)
    numbers = [struct.unpack(">Q", b"\0" + raw[at : at + 7])[0] for at in range(0, TOTALS_SIZE, 7)]
    return dict(zip(BALANCE_FIELDS, numbers, strict=True))


def cycles_in(raw: bytes) -> list[dict[str, int]]:
    """A quota cell's cycles by the names of their numbers, the latest first."""
    size, cycles = sum(QUOTA_SIZES), []
    assert len(raw) % size == 0
    for at in range(0, len(raw), size):
        numbers, place = [], at
        for width in QUOTA_SIZES:
            numbers.append(int.from_bytes(raw[place : place + width], "big"))
            place += width
        cycles.append(dict(zip(QUOTA_FIELDS, numbers, strict=True)))
    return cycles


def kind_of(raw: bytes) -> int:
    """The kind of limit that a standing cell belongs to, by its form."""
    if is_balance(raw):
        return BALANCE
    if raw.partition(b";")[0].isdigit():
        return SLOTS
    if len(raw) == COUNT_SIZE and raw[:1] == b"n":
        return COUNT
    return QUOTA if len(raw) >= sum(QUOTA_SIZES) else SLOTS


def standing_in(raw: bytes) -> int:
    """Units that stand in a count's cell."""
    return int.from_bytes(raw[1:8], "big")


def held_in(raw: bytes) -> int:
    """What a standing cell holds for live holds."""
    match kind_of(raw):
        case 5:
            return balance_of(raw)["held"]
        case 6:
            return sum(cycle["held"] for cycle in cycles_in(raw))
        case 7:
            return int.from_bytes(raw[8:], "big")
        case _:
            return int(raw.partition(b";")[0])


def jobs_in(raw: bytes) -> int:
    """How many jobs of a pool were measured."""
    return raw.partition(b";")[2][6:7][0] if b";" in raw else 0


def broken_rules(state: Snapshot) -> list[str]:
    """What is wrong with a store, at any moment."""
    broken = [f"{key!r} is a window without a TTL" for key in state if b"}:w:" in key and not state[key][2]]
    tenants = {key[: key.index(b"}:") + 2] for key in state if b"/" in key.partition(b"}:")[0]}
    for prefix in sorted(tenants):
        broken += _broken_in_tenant(state, prefix)
    return broken


def _broken_in_tenant(state: Snapshot, prefix: bytes) -> Iterator[str]:
    cells: dict[bytes, bytes] = state.get(prefix + b"cells", (b"", {}, False))[1]  # type: ignore[assignment]  # a hash
    due: dict[bytes, bytes] = state.get(prefix + b"due", (b"", {}, False))[1]  # type: ignore[assignment]  # same
    holds = {
        key.removeprefix(prefix + b"h:"): (StoredHold.parse(content), has_ttl)  # type: ignore[arg-type]  # a string
        for key, (_, content, has_ttl) in state.items()
        if key.startswith(prefix + b"h:")
    }
    live = {hold_id: hold for hold_id, (hold, _) in holds.items() if hold.state in LIVE}
    for hold_id, (hold, has_ttl) in holds.items():
        if has_ttl == (hold.state in LIVE):
            yield f"hold {hold_id!r} is in state {hold.state} and {'has' if has_ttl else 'lacks'} a TTL"
    ends = {i: int(due.get(i, 0)) if hold.state == QUEUED else hold.lease_end for i, hold in live.items()}
    if ends != {i: int(s) for i, s in due.items() if i not in NO_HOLDS}:
        yield f"{prefix!r}: live holds {sorted(live)} and due entries {due} differ"
    yield from _broken_due_times(state, prefix, cells, due)
    yield from _broken_queues(state, prefix, live)
    yield from _broken_index_of_notes(state, prefix)

    yield from _broken_cells(prefix, cells, live.values())
    allocations: dict[bytes, bytes] = state.get(prefix + b"alloc", (b"", {}, False))[1]  # type: ignore[assignment]  # a hash
    yield from _broken_counts(prefix, cells, allocations)
    schedules: dict[bytes, bytes] = state.get(prefix + b"grants", (b"", {}, False))[1]  # type: ignore[assignment]  # a hash
    yield from _broken_schedules(prefix, cells, due, schedules)
    ledger: list[Any] = state.get(prefix + b"ledger", (b"", [], False))[1]  # type: ignore[assignment]  # a stream
    trimmed: dict[bytes, bytes] = state.get(prefix + b"trimmed", (b"", {}, False))[1]  # type: ignore[assignment]  # a hash
    yield from _broken_ledger(prefix, cells, ledger, trimmed)


def _broken_cells(prefix: bytes, cells: dict[bytes, bytes], live: Iterable[StoredHold]) -> Iterator[str]:
    expected: Counter[tuple[int, bytes]] = Counter()
    for hold in live:
        for kind, field, units in hold.kept():
            expected[kind, field] += units
    for field, raw in cells.items():
        if field in {b"v", b"due"}:
            continue
        kind, held = kind_of(raw), held_in(raw)
        kept = expected.pop((kind, field), 0)
        if held != kept:
            yield f"{prefix!r}: cell {field!r} has {held} held, its live holds {kept}"
        if wrong := _wrong_in(kind, raw):
            yield f"{prefix!r}: cell {field!r} {wrong}"
    if any(expected.values()):
        yield f"{prefix!r}: live holds took {expected} from cells that do not exist"


def _broken_counts(prefix: bytes, cells: dict[bytes, bytes], allocations: dict[bytes, bytes]) -> Iterator[str]:
    """What stands in each count is the sum over the allocations, and each of these has units."""
    expected: Counter[bytes] = Counter()
    for name, raw in allocations.items():
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(raw)
        values = list(unpacker)
        if not values or min(values[1::2]) <= 0:
            yield f"{prefix!r}: the allocation {name!r} has no units: {values}"
        expected.update(dict(zip(values[::2], values[1::2], strict=True)))
    counts = {field: standing_in(raw) for field, raw in cells.items() if kind_of(raw) == COUNT}
    for field in expected.keys() | counts.keys():
        if expected[field] != counts.get(field, 0):
            yield f"{prefix!r}: {counts.get(field, 0)} stand in {field!r}, and {expected[field]} by name"


def _wrong_in(kind: int, raw: bytes) -> str:
    """What a standing cell of this kind must never be."""
    if kind == BALANCE and not _adds_up(balance_of(raw), grants_of(raw)):
        return f"does not add up: {balance_of(raw)} with {grants_of(raw)}"
    if kind == QUOTA:
        starts = [cycle["start"] for cycle in cycles_in(raw)]
        return "" if starts == sorted(set(starts), reverse=True) else f"has its cycles out of order: {starts}"
    return "is an empty pool and should be gone" if kind == SLOTS and held_in(raw) <= 0 and not jobs_in(raw) else ""


def _broken_queues(state: Snapshot, prefix: bytes, live: dict[bytes, StoredHold]) -> Iterator[str]:
    """Those who wait stand in their queues, and nobody else does; whose turn is next is known while anybody waits."""
    queues = {
        key.removeprefix(prefix + b"q:"): content
        for key, (_, content, _) in state.items()
        if key.startswith(prefix + b"q:")
    }
    standing = {(field, hold_id) for field, content in queues.items() for hold_id in content}  # type: ignore[attr-defined]  # a dict
    waiting = {
        (take[3], hold_id)
        for hold_id, hold in live.items()
        for take in hold.takes
        if hold.state == QUEUED and take[0] == SLOTS and take[8] and len(take[8]) > 1
    }
    if standing != waiting:
        yield f"{prefix!r}: there wait {sorted(waiting)}, and {sorted(standing)} stand in queues"
    if (prefix + b"pools" in state) != bool(waiting):
        yield f"{prefix!r}: whose turn is next is {'known' if not waiting else 'not known'}"


def _broken_due_times(
    state: Snapshot, prefix: bytes, cells: dict[bytes, bytes], due: dict[bytes, bytes]
) -> Iterator[str]:
    """The earliest lease end, noted beside the cells and in the slot's index, may be too early, never too late."""
    member = prefix.removeprefix(b"hg:{").removesuffix(b"}:")
    indexed = [
        int(content[member])  # type: ignore[index]  # a sorted set is a dict
        for key, (kind, content, _) in state.items()
        if kind == b"zset" and b"/" not in key and key.endswith(b":due") and member in content  # type: ignore[operator]  # same
    ]
    if not due:
        return
    first = min(map(int, due.values()))
    if int(cells.get(b"due", b"9" * 16)) > first:
        yield f"{prefix!r}: cells.due is {cells.get(b'due')!r}, and a lease ends at {first}"
    if len(indexed) != 1 or indexed[0] > first:
        yield f"{prefix!r}: the index says {indexed}, and a lease ends at {first}"


def _broken_index_of_notes(state: Snapshot, prefix: bytes) -> Iterator[str]:
    """A tenant with notes that the webhook has not told is in its slot's index."""
    notes: list[Any] = state.get(prefix + b"note", (b"", [], False))[1]  # type: ignore[assignment]  # a stream
    told: bytes = state.get(prefix + b"told", (b"", b"", False))[1]  # type: ignore[assignment]  # a string
    member = prefix.removeprefix(b"hg:{").removesuffix(b"}:")
    listed = any(
        key.endswith(b"}:noted") and member in content  # type: ignore[operator]  # a sorted set is a dict
        for key, (_, content, _) in state.items()
    )
    if notes and notes[-1][0] != told and not listed:
        yield f"{prefix!r}: the last note is {notes[-1][0]!r}, {told!r} was told, and no index says so"


def _broken_schedules(
    prefix: bytes, cells: dict[bytes, bytes], due: dict[bytes, bytes], schedules: dict[bytes, bytes]
) -> Iterator[str]:
    """What changes with time is due at the first instant at which it does."""
    unpacked = {}
    for field, raw in schedules.items():
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(raw)
        unpacked[field] = list(unpacker)
    changes = [schedule[1] for schedule in unpacked.values()]
    changes += [expiry for raw in cells.values() if is_balance(raw) for _, expiry, _ in grants_of(raw)]
    first = min((change for change in changes if change < NEVER), default=None)
    if first != (int(due[b""]) if b"" in due else None):
        yield f"{prefix!r}: grants change at {first}, and are due at {due.get(b'')!r}"


def _broken_ledger(
    prefix: bytes, cells: dict[bytes, bytes], entries: list[Any], trimmed: dict[bytes, bytes]
) -> Iterator[str]:
    """Entries have numbers without gaps, each begins where the last of its cell ended, the last where the cell is."""
    first = int(entries[0][0].partition(b"-")[2]) if trimmed and entries else 1
    if [entry_id for entry_id, _ in entries] != [f"0-{n}".encode() for n in range(first, first + len(entries))]:
        yield f"{prefix!r}: the ledger has gaps: {[entry_id for entry_id, _ in entries]}"
    last = {field: {**balance_of(raw), "held": 0} for field, raw in trimmed.items()}
    for _, (_, packed) in entries:
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(packed)
        _, _, _, field, before, after = unpacker
        was, becomes = ({**balance_of(raw), "held": 0} for raw in (before, after))
        if last.setdefault(field, was) != was:
            yield f"{prefix!r}: the ledger leaves {field!r} at {last[field]} and goes on from {was}"
        last[field] = becomes
    for field, totals in last.items():
        now = {**balance_of(cells[field]), "held": 0}
        if now != totals:
            yield f"{prefix!r}: the ledger leaves {field!r} at {totals}, and it is {now}"


def _adds_up(b: dict[str, int], grants: list[tuple[int, int, int]]) -> bool:
    """No total is below zero, and what is held and charged, and left of grants, is covered."""
    available = b["granted"] - b["reversed"] + b["debt"] - b["held"] - b["charged"] - b["expired"]
    return available >= sum(left for _, _, left in grants)


def _waits_for_time(state: Snapshot, key: bytes, members: list[bytes]) -> bool:
    """Whether a due index has nothing but balances and allowances that change with time."""
    if b"/" not in key:
        dues = [b"hg:{" + member + b"}:due" for member in members]
        return all(due in state and _waits_for_time(state, due, list(state[due][1])) for due in dues)  # type: ignore[call-overload]  # a sorted set is a dict
    return set(members) <= NO_HOLDS and (b"" not in members or key.removesuffix(b"due") + b"grants" in state)


def leaks(state: Snapshot) -> list[str]:
    """What is left of a store in which every lease has ended and been swept, and should not be."""
    left: list[str] = []
    for key, (kind, content, has_ttl) in state.items():
        name = key.rpartition(b"}:")[2]
        if name in LASTS or (has_ttl and name[:2] in {b"h:", b"w:", b"u:"}):
            continue
        if name == b"cells" and kind == b"hash":
            left += [
                f"{key!r} has {field!r}"
                for field, raw in content.items()  # type: ignore[attr-defined]  # a hash is a dict
                if (field == b"due" and key.removesuffix(b"cells") + b"due" not in state)
                or (field not in {b"v", b"due"} and (held_in(raw) or (kind_of(raw) == SLOTS and not jobs_in(raw))))
            ]
            continue
        if kind == b"zset" and _waits_for_time(state, key, list(content)):  # type: ignore[call-overload]  # same
            continue
        left.append(f"{key!r} ({kind.decode()}{'' if has_ttl else ', without TTL'})")
    return left
