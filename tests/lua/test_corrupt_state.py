"""Whatever stands in a key: a typed error and not one byte changed, or a valid answer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgpack
import pytest

from server.domain.account import Account
from server.domain.errors import CorruptStateError, HoldExpiredError, HoldgateError
from server.domain.hold import State
from server.engine import keys
from server.engine.base import HoldOutcome
from server.engine.client import StoreConnection
from server.engine.sequences import pack
from tests.conftest import Connect
from tests.lua.scenes import KEYS, OPERATIONS, REAP, TENANT, Scene, reap_alone
from tests.store_state import METERS_AT, snapshot
from tests.stores import RunningStore

Command = tuple[bytes | str | int, ...]
Corruption = tuple[str, list[Command]]

TOUCHES: Final = {
    "reserve": {"cells", "due", "new hold", "windows", "project's windows"},
    "reserve, refused": {"cells", "new hold", "windows", "project's windows"},
    "reserve, repeated": {"cells", "due", "hold", "windows", "project's windows"},
    "look": {"cells", "windows", "project's windows"},
    "report": {"cells", "hold", "ledger", "notes", "noted", "project's windows"},
    "record": {"amounts", "amounts before", "cells", "noted", "notes", "samples"},
    "deallocate": {"allocations", "cells"},
    "settle": {"allocations", "cells", "due", "hold", "ledger", "notes", "noted", "project's windows"},
    "release": {"cells", "due", "hold", "project's windows"},
    "renew": {"cells", "due", "hold", "ledger", "notes", "noted", "project's windows"},
    "extend": {"cells", "account", "due", "hold", "ledger", "notes", "noted", "windows", "project's windows"},
    "find": {"account", "hold"},
    "write account": {
        "allocations",
        "cells",
        "account",
        "ids",
        "due",
        "due_index",
        "grants",
        "ledger",
        "pools",
        "queue",
        "acts",
    },
    "audit": {"cells", "due", "grants", "hold", "ledger", "trimmed"},
    "trim": {"ledger", "trimmed"},
    "repair": {"acts", "cells", "due", "grants", "hold", "ledger", "trimmed"},
    "lease": {"lease", "since"},
    "tell": {"notes", "noted", "told"},
    "reset": {"cells", "ids", "project's windows", "acts"},
    "reset, a quota": {"cells", "ids", "acts"},
    "adjust": {"cells", "ids", "ledger", "acts"},
    "adjust, a quota": {"cells", "ids", "notes", "noted", "acts"},
    "release, an act": {"cells", "due", "hold", "project's windows", "acts"},
    "delete": {"cells", "due", "due_index", "noted", "acts"},
    REAP: {"cells", "due", "due_index", "hold", "pools", "queue", "project's windows"},
}
"""The keys that each operation looks at, so that a wrong type in them cannot pass unnoticed."""

GARBAGE: Final = [
    b"",
    b"garbage",
    b"nan",
    b"inf",
    b"-7",
    b"0.5",
    b"9" * 30,
    b"\xff" * 49,
    b"\x7f" * 13,
    b"\x01" * 20_000,
    b"\xc1",
    b"x" * 1_000_000,
]


async def act(scene: Scene, operation: str) -> object:
    if operation != REAP:
        return await OPERATIONS[operation](scene.tenant)
    await reap_alone(scene)
    return None


def spoil(store: RunningStore, corruption: Corruption) -> None:
    for command in corruption[1]:
        store.command(*command)


def wrong_types(key: bytes, stored: str) -> Iterator[Corruption]:
    makers: dict[str, Command] = {
        "string": ("SET", key, "x"),
        "hash": ("HSET", key, "x", "y"),
        "zset": ("ZADD", key, 1, "x"),
        "list": ("RPUSH", key, "x"),
        "set": ("SADD", key, "x"),
        "stream": ("XADD", key, "*", "x", "y"),
    }
    for kind, maker in makers.items():
        if kind != stored:
            yield f"is a {kind}", [("DEL", key), maker]


TYPES: Final = {
    "cells": "hash",
    "ids": "hash",
    "windows": "hash",
    "project's windows": "hash",
    "due": "zset",
    "due_index": "zset",
    "queue": "zset",
    "grants": "hash",
    "ledger": "stream",
    "trimmed": "hash",
    "notes": "stream",
    "allocations": "hash",
    "samples": "hash",
    "amounts": "hash",
    "amounts before": "hash",
    "noted": "zset",
    "acts": "stream",
}


@pytest.mark.parametrize("operation", TOUCHES)
async def test_a_key_of_the_wrong_type_is_a_typed_error_and_nothing_changes(
    operation: str, store: RunningStore, connection: StoreConnection
) -> None:
    scene = await Scene.build(store, connection)
    for name, key in KEYS.items():
        for corruption in wrong_types(key, TYPES.get(name, "string")):
            scene.rewind()
            if operation == REAP:
                scene.make_overdue()
            spoil(store, corruption)
            before = snapshot(store)
            if name in TOUCHES[operation]:
                with pytest.raises(CorruptStateError):
                    await act(scene, operation)
                assert snapshot(store) == before, (name, corruption[0])
            elif (name, operation) != ("due_index", "reserve"):
                await act(scene, operation)


async def test_an_index_of_the_wrong_type_stops_the_first_lease(
    store: RunningStore, connection: StoreConnection
) -> None:
    """Only a lease that ends before all others is written there, and its type is looked at before."""
    scene = await Scene.build(store, connection)
    await scene.tenant.release("h")
    scene.tenant.clock.advance(200_000)
    await scene.tenant.figures()
    for corruption in wrong_types(TENANT.due_index, "zset"):
        spoil(store, corruption)
        before = snapshot(store)
        with pytest.raises(CorruptStateError):
            await act(scene, "reserve")
        assert snapshot(store) == before


def garbage_in(store: RunningStore, key: bytes) -> Iterator[Corruption]:
    kind = store.command("TYPE", key)
    if kind == b"string":
        content = store.command("GET", key)
        for value in [*GARBAGE, content[:-1], content[: len(content) // 2], content + b"\x01"]:
            yield f"{value[:20]!r}", [("SET", key, value, "KEEPTTL")]
    elif kind == b"hash":
        for field in store.command("HKEYS", key):
            content = store.command("HGET", key, field)
            for value in [*GARBAGE, content[:-1], content + b"\x01", content * 2]:
                yield f"{field!r}: {value[:20]!r}", [("HSET", key, field, value)]
            yield f"{field!r} is missing", [("HDEL", key, field)]
    elif kind == b"zset":
        stray = "stray" if key == TENANT.due else b"another/tenant"
        yield "a stray member", [("ZADD", key, 1, stray)]
        yield "stray members with odd scores", [("ZADD", key, "inf", stray), ("ZADD", key, "-inf", b"one/more")]
        for member in store.command("ZRANGE", key, 0, -1):
            yield f"{member!r} is missing", [("ZREM", key, member)]
            yield f"{member!r} has another score", [("ZADD", key, "0.5", member)]
    yield "is missing", [("DEL", key)]


@pytest.mark.parametrize("operation", TOUCHES)
@pytest.mark.parametrize("name", [name for name in KEYS if name != "new hold"])
async def test_garbage_is_a_typed_error_without_a_change_or_a_valid_answer(
    operation: str, name: str, valkey: RunningStore, connect: Connect
) -> None:
    connection = await connect(valkey)
    scene = await Scene.build(valkey, connection)
    for corruption in list(garbage_in(valkey, KEYS[name])):
        scene.rewind()
        if operation == REAP:
            scene.make_overdue()
        spoil(valkey, corruption)
        before = snapshot(valkey)
        failed = False
        try:
            await act(scene, operation)
        except HoldgateError:
            failed = True
        if failed:
            after = snapshot(valkey)
            changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            assert not changed, corruption[0]


MARCH: Final = (1_772_323_200_000).to_bytes(6, "big")
"""The start of the cycle that the quota's entry is of."""

UNREADABLE: Final = {
    "account version": (TENANT.cells, b"v", [b"garbage", b""]),
    "earliest lease end": (TENANT.cells, b"due", [b"garbage", b""]),
    "pool": (TENANT.cells, b"jobs~s", [b"garbage", b"", b"nan", b"inf", b"-7", b"0.5", b"9" * 30]),
    "balance": (TENANT.cells, b"credits~b", [b"garbage", b"", b"7", b"\xff" * 49, b"\x00" * 48, b"\x00" * 50]),
    "quota": (TENANT.cells, b"allowance~q", [b"garbage", b"", b"7", b"\x00" * 81, MARCH + b"\x7f" * 76]),
    "count": (TENANT.cells, b"places~n", [b"garbage", b"", b"7", b"n" + b"\xff" * 14, b"\x00" * 15]),
    "window": (TENANT.windows("project=p 1"), b"tpm~w", [b"garbage", b"\x00" * 14, b"\xff" * 27]),
}
"""What no operation that decides by it may take for a number."""


@pytest.mark.parametrize("what", UNREADABLE)
async def test_nobody_is_granted_anything_on_figures_that_cannot_be_read(
    what: str, store: RunningStore, connection: StoreConnection
) -> None:
    key, field, spoilt = UNREADABLE[what]
    scene = await Scene.build(store, connection)
    for value in spoilt:
        scene.rewind()
        store.command("HSET", key, field, value)
        before = snapshot(store)
        with pytest.raises(CorruptStateError):
            await act(scene, "reserve")
        assert snapshot(store) == before


@pytest.mark.parametrize("operation", ["report", "settle", "release"])
@pytest.mark.parametrize("lost", [("ZREM", KEYS["due"], "h"), ("DEL", KEYS["due"])], ids=["its entry", "all entries"])
async def test_a_hold_whose_due_entry_is_lost_ends_all_the_same(
    lost: Command, operation: str, store: RunningStore, connection: StoreConnection
) -> None:
    """No reap will ever find it, so nobody may wait for one."""
    scene = await Scene.build(store, connection)
    scene.make_overdue()
    spoil(store, ("", [lost]))

    outcome = await act(scene, operation)

    assert isinstance(outcome, HoldOutcome)
    assert outcome.applied


# the hold's record, field by field


WRONG: Final[list[Any]] = [b"x", -7, 2**60, 0.5, None]


async def test_any_field_of_a_hold_may_be_garbage(valkey: RunningStore, connect: Connect) -> None:
    """Settle, release, extend and expiry: typed, and never half of it, because all is worked out before a write."""
    connection = await connect(valkey)
    scene = await Scene.build(valkey, connection)
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(valkey.command("GET", KEYS["hold"]))
    record = list(unpacker)
    fields = [at for at in range(len(record)) if at not in {4, 5, 8}]  # figures, marks, note: opaque to scripts
    assert record[METERS_AT] == 3
    half_written = []
    for at in fields:
        for wrong in WRONG:
            for operation in ("settle", "release", "extend", REAP):
                scene.rewind()
                if operation == REAP:
                    scene.make_overdue()
                spoilt = pack([*record[:at], wrong, *record[at + 1 :]])
                valkey.command("SET", KEYS["hold"], spoilt)
                before = snapshot(valkey)
                try:
                    await act(scene, operation)
                except HoldgateError as error:
                    if snapshot(valkey) != before:
                        half_written.append((at, wrong, operation, error))
    assert [(at, wrong, operation, str(error)) for at, wrong, operation, error in half_written] == []


async def test_a_tenant_that_cannot_be_read_does_not_stop_the_sweeper(
    store: RunningStore, connection: StoreConnection
) -> None:
    """Others are swept all the same, and the error is told."""
    scene = await Scene.build(store, connection)
    ref = scene.tenant.ref
    others = [replace(scene.tenant, ref=ref._replace(tenant=f"t{n}"), account=Account("free")) for n in range(20)]
    for other in others:
        await other.grant("h", frames=1)
    scene.make_overdue()
    store.command("SET", KEYS["hold"], "garbage")
    store.command("ZADD", keys.index_key(0), 1, "no tenant at all")

    with pytest.raises(CorruptStateError):
        await scene.tenant.engine.sweep()

    assert [other.ref.tenant for other in others if (await other.hold("h")).state.name == "ACTIVE"] == []


@pytest.mark.parametrize("operation", ["renew", "extend"])
async def test_a_hold_whose_due_entry_is_lost_is_not_renewed_once_its_lease_has_ended(
    operation: str, store: RunningStore, connection: StoreConnection
) -> None:
    """It is put back where the reap finds it."""
    scene = await Scene.build(store, connection)
    scene.make_overdue()
    spoil(store, ("", [("ZREM", KEYS["due"], "h"), ("HDEL", KEYS["cells"], "due")]))

    with pytest.raises(HoldExpiredError):
        await act(scene, operation)

    assert (await scene.tenant.hold("h")).state is State.EXPIRED


async def test_a_renewal_puts_a_hold_back_whose_due_entry_is_lost(
    store: RunningStore, connection: StoreConnection
) -> None:
    scene = await Scene.build(store, connection)
    spoil(store, ("", [("DEL", KEYS["due"]), ("HDEL", KEYS["cells"], "due")]))

    await scene.tenant.renew("h")

    scene.make_overdue()
    await scene.tenant.figures()
    assert (await scene.tenant.hold("h")).state is State.EXPIRED


@pytest.mark.parametrize("operation", ["settle", "release", "renew"])
async def test_what_no_reap_ends_is_an_error_at_once(
    operation: str, store: RunningStore, connection: StoreConnection
) -> None:
    """The lease has ended by the record, and by the due set it has not."""
    scene = await Scene.build(store, connection)
    scene.make_overdue()
    spoil(store, ("", [("ZADD", KEYS["due"], scene.tenant.clock() + 10**9, "h")]))

    with pytest.raises(CorruptStateError, match="overdue that no reap ends"):
        await act(scene, operation)
