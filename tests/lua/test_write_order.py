"""Read first, write last: no script can stop between two writes.

Each script is run with its `redis.call` wrapped: once to see what it calls and in what order, then once for each
call up to the first write, with that call failing. What comes after the first write cannot fail, because every key
that is written then has had its type seen before; that is checked on the calls themselves.
"""

import asyncio
from dataclasses import replace
from typing import Final, NamedTuple

import hiredis
import pytest

from server.engine.client import StoreConnection
from server.engine.scripts import script
from tests.lua.scenes import AMOUNTS, OPERATIONS, REAP, SCRIPT_OF, TENANT, Capture, Scene, capture
from tests.policies_for_tests import balance, flag_gate, policy, slots, window
from tests.store_state import snapshot
from tests.stores import RunningStore

WRITES: Final = {"SET", "HSET", "HDEL", "ZADD", "ZREM", "PEXPIRE", "XADD", "XTRIM", "DEL", "UNLINK"}
READS: Final = {
    "GET",
    "HGET",
    "HMGET",
    "HLEN",
    "ZSCORE",
    "ZCARD",
    "ZCOUNT",
    "ZMSCORE",
    "EXISTS",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "XLEN",
    "XRANGE",
    "XREVRANGE",
    "HGETALL",
    "TIME",
}
TYPE_OF: Final = {
    "SET": "string",
    "GET": "string",
    "EXISTS": "any",
    "DEL": "any",
    "UNLINK": "any",
    "PEXPIRE": "any",
    "TIME": "none",
}
"""The type that a command wants of its key; `H...` want a hash and `Z...` a sorted set."""

MOST_CALLS: Final = 60
ALL: Final = [*OPERATIONS, REAP]


class Call(NamedTuple):
    """One command of a script."""

    command: str
    key: bytes

    @property
    def writes(self) -> bool:
        return self.command in WRITES

    @property
    def kind(self) -> str:
        return TYPE_OF.get(self.command, {"H": "hash", "X": "stream", "Z": "zset"}.get(self.command[0], ""))


POOLS: Final = Call("GET", TENANT.prefix + b"pools")
"""Where a look at the queues begins."""


def wrapped(name: str, *, failing: int = 0, tracing: bool = False) -> str:
    """A script whose n-th `redis.call` fails, or which answers the calls that it made instead of its reply."""
    first, _, body = script(name).source.decode().partition("\n")
    call = f"""
local trace, count, real = {{}}, 0, redis.call
local redis = {{ call = function(...)
  count = count + 1
  local words = {{ ... }}
  trace[count] = words[1] .. ' ' .. (words[2] or '')
  if count == {failing} then error('INJECTED') end
  return real(...)
end, pcall = redis.pcall }}
local function script()
"""
    return f"{first}\n{call}{body}\nend\nlocal reply = script()\nreturn {'trace' if tracing else 'reply'}\n"


def run(scene: Scene, call: Capture, source: str) -> list[bytes]:
    reply: list[bytes] = scene.store.command("EVAL", source, len(call.keys), *call.keys, *call.args)
    return reply


def calls_of(scene: Scene, name: str, call: Capture) -> list[Call]:
    trace = [line.partition(b" ") for line in run(scene, call, wrapped(name, tracing=True))]
    return [Call(command.decode(), key) for command, _, key in trace]


async def captured(scene: Scene, operation: str, connection: StoreConnection) -> Capture:
    scene.rewind()
    if operation == REAP:
        scene.make_overdue()
    return await capture(scene, operation, connection)


def first_write(calls: list[Call]) -> int:
    """Its number from 1; one beyond the last where nothing is written."""
    return next((number for number, call in enumerate(calls, start=1) if call.writes), len(calls) + 1)


@pytest.mark.parametrize("operation", ALL)
async def test_a_failure_at_any_read_or_at_the_first_write_changes_nothing(
    operation: str, store: RunningStore, connection: StoreConnection
) -> None:
    scene = await Scene.build(store, connection)
    call = await captured(scene, operation, connection)
    before = snapshot(store)
    calls = calls_of(scene, SCRIPT_OF[operation], call)
    assert 0 < len(calls) < MOST_CALLS
    assert {call.command for call in calls} <= READS | WRITES

    for failing in range(1, min(first_write(calls), len(calls)) + 1):
        scene.rewind()
        with pytest.raises(hiredis.ReplyError, match="INJECTED"):
            run(scene, call, wrapped(SCRIPT_OF[operation], failing=failing))
        assert snapshot(store) == before, (failing, calls)
    store.command("SCRIPT", "FLUSH")


async def test_a_refusal_changes_no_byte(store: RunningStore, connection: StoreConnection) -> None:
    """Whichever limit refuses, with or without an id: every key is as it was, and none is new."""
    scene = await Scene.build(store, connection)
    lab, before = scene.tenant, snapshot(store)
    for number, amounts in enumerate(({"tokens": 10**9}, {"frames": 10**9}, {"credits": 10**9}, dict(AMOUNTS))):
        if number == 3:
            lab.policy = replace(lab.policy, limits=(*lab.policy.limits, flag_gate("welcome", expect=True)))
        await lab.refusal("new", **amounts)
        await lab.refusal(**amounts)
    assert snapshot(store) == before


@pytest.mark.parametrize("operation", ALL)
async def test_whatever_is_written_after_the_first_write_was_seen_before(
    operation: str, valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    """Of the right type, so that the write cannot fail; and nothing unseen is read any more. When reap is done with
    what is overdue, it looks at the queues, and then makes turns.
    """
    scene = await Scene.build(valkey, connect_valkey)
    calls = calls_of(scene, SCRIPT_OF[operation], await captured(scene, operation, connect_valkey))
    start = first_write(calls)

    # The look at the hold that a repeat finds comes after a ZADD NX that changed nothing.
    repeated = [Call("GET", TENANT.hold("h"))] if operation == "reserve, repeated" else []
    turns = calls.index(POOLS, start) if operation == REAP else len(calls)
    assert breaches(calls[:start], calls[start:turns]) == repeated
    assert breaches(calls, calls[turns + first_write(calls[turns:]) :]) == []


def breaches(before: list[Call], after: list[Call]) -> list[Call]:
    """Calls that could fail although something was written before. SET takes a key of any type, and so does SET NX."""
    seen: dict[bytes, str] = {}
    for call in before:
        seen.setdefault(call.key, call.kind)
    return [call for call in after if call.command != "SET" and call.kind not in {"any", seen.get(call.key)}]


def test_a_breach_of_the_rule_is_found() -> None:
    """The check itself: an unseen key, a key seen as another type, a read after a write."""
    seen = [Call("HMGET", b"cells"), Call("ZADD", b"due")]

    assert breaches(seen, [Call("HSET", b"cells"), Call("ZREM", b"due"), Call("SET", b"hold")]) == []
    for bad in (Call("HSET", b"other"), Call("HSET", b"due"), Call("GET", b"hold"), Call("HMGET", b"other")):
        assert breaches(seen, [bad]) == [bad]


async def test_the_first_lease_and_the_next_write_different_keys_in_the_same_order(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    """A tenant's first lease is noted in the index, whose type is seen before the first write."""
    scene = await Scene.build(valkey, connect_valkey)
    later = calls_of(scene, "reserve", await captured(scene, "reserve", connect_valkey))
    scene.rewind()
    await scene.tenant.release("h")
    scene.tenant.clock.advance(200_000)
    await scene.tenant.figures()
    first = calls_of(scene, "reserve", await capture(scene, "reserve", connect_valkey))

    assert TENANT.due_index not in {call.key for call in later}
    assert [call.command for call in first if call.key == TENANT.due_index] == ["ZSCORE", "ZADD"]
    start = first_write(first)
    assert breaches(first[:start], first[start:]) == []
    assert [call.command for call in first[start - 1 : start + 1]] == ["ZADD", "SET"]


async def test_several_overdue_holds_are_each_read_and_then_written_whole(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    scene = await Scene.build(valkey, connect_valkey)
    for number in range(3):
        await scene.tenant.grant(f"h{number}", **AMOUNTS)
    scene.make_overdue()
    calls = calls_of(scene, "reap", await capture(scene, REAP, connect_valkey))

    ends = [at for at, call in enumerate(calls) if call.command == "SET"]
    assert len(ends) == 4
    begin = next(at for at, call in enumerate(calls) if call.command == "GET")
    head = calls[:begin]
    for end in ends:
        of_one = calls[begin : end + 1]
        start = first_write(of_one)
        assert breaches([*head, *of_one[:start]], of_one[start:]) == []
        begin = end + 1
    assert breaches(head, calls[begin : calls.index(POOLS)]) == []


async def test_admission_flat_in_live_holds(valkey: RunningStore, connect_valkey: StoreConnection) -> None:
    """The same commands on the same keys, whether few holds are open or many."""
    scene = await Scene.build(valkey, connect_valkey)
    scene.tenant.policy = policy(window("rpm", 10**6), slots("jobs", 10**6), balance("credits"))
    few = calls_of(scene, "reserve", await capture(scene, "reserve", connect_valkey))
    scene.rewind()
    for first in range(0, 2000, 100):
        await asyncio.gather(*(scene.tenant.grant(f"h{first + n}") for n in range(100)))

    many = calls_of(scene, "reserve", await capture(scene, "reserve", connect_valkey))

    assert valkey.command("ZCARD", TENANT.due) > 2000
    assert many == few


@pytest.mark.parametrize("operation", ["reserve, refused", "look", "find", "reserve, repeated"])
async def test_what_takes_nothing_writes_nothing(
    operation: str, valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    """A refusal, a look and a find; a repeat undoes the one entry that it made."""
    scene = await Scene.build(valkey, connect_valkey)
    before = snapshot(valkey)
    calls = calls_of(scene, SCRIPT_OF[operation], await captured(scene, operation, connect_valkey))

    assert [call.command for call in calls if call.writes] == (["ZADD"] if operation == "reserve, repeated" else [])
    assert snapshot(valkey) == before


MOST_PER_HASH: Final = {
    **dict.fromkeys(ALL, (1, 1)),
    "reserve": (1, 2),  # the first lease's end is noted beside the cells
    "report": (2, 1),  # the earliest lease end, then the cells
    "settle": (2, 2),  # fields to set, and a pool to remove
    "release": (2, 2),
    "release, with a turn": (2, 3),  # the cells, then those of the queues' pools
    "release, from the queue": (3, 2),
    "release, an act": (2, 2),
    "delete": (1, 2),  # the version that says so, and the earliest lease end
    "renew": (2, 1),
    "extend": (4, 2),  # looks, reports, looks again, raises
    "write account": (2, 1),  # the cells, then those of the queues' pools
    REAP: (4, 3),
}
"""Reads and writes of one hash in one script."""


@pytest.mark.parametrize("operation", ALL)
async def test_one_read_and_one_write_per_hash(
    operation: str, valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    """However many limits a hash has; an extend that reports and raises is two phases."""
    scene = await Scene.build(valkey, connect_valkey)
    calls = calls_of(scene, SCRIPT_OF[operation], await captured(scene, operation, connect_valkey))

    for key in {call.key for call in calls if call.kind == "hash"}:
        of_key = [call.command for call in calls if call.key == key]
        reads = sum(command in {"HGET", "HMGET"} for command in of_key)
        writes = sum(command in {"HSET", "HDEL"} for command in of_key)
        most_reads, most_writes = MOST_PER_HASH[operation]
        assert reads <= most_reads, calls
        assert writes <= most_writes, calls
