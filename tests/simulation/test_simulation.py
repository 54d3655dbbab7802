"""The simulation finds nothing in the scripts as they are, and finds what is broken in them on purpose; and what it
sees is what real stores do.
"""

import os
import secrets
from typing import Final

import pytest

from server.engine.scripts import script
from tests.conftest import REAL_STORES
from tests.simulation.episodes import Clock, draw_episode
from tests.simulation.runs import failure_of, few_slots, play, shrunk
from tests.simulation.store import SimulatedStore
from tests.simulation.twin import TwinStore
from tests.simulation.world import World

SEED: Final = 1 if os.environ.get("CI") else secrets.randbelow(10**9)
EPISODES: Final = 60
TWIN_EPISODES: Final = 20
MOST_EPISODES_FOR_A_MUTANT: Final = 1000


def test_no_invariant_is_broken_whatever_gets_lost_doubled_or_late() -> None:
    run = play(SEED, range(EPISODES), SimulatedStore())
    assert not run.failed, run.failed


@pytest.mark.parametrize("store_name", REAL_STORES[:2])
def test_real_stores_answer_every_call_as_the_simulated_one(store_name: str, request: pytest.FixtureRequest) -> None:
    """The same seeds, call by call, byte by byte; and at each end the same keys with the same content."""
    twin = TwinStore(request.getfixturevalue(store_name))
    kept = [episode for n in range(2 * TWIN_EPISODES) if (episode := draw_episode(SEED, n)).judged]
    assert kept
    with few_slots():
        for episode in kept[:TWIN_EPISODES]:
            World(episode, twin).play()
            twin.must_be_equal()
    twin.close()


MUTANTS: Final = {
    "an ended hold stays due": ("settle", "redis.call('ZREM', KEYS[3], id)", "local _ = id"),
    "a repeat is granted anew": ("reserve", "active, 'NX'", "active"),
    "a repeated final is charged again": ("settle", "if state == 2 or state == 5 then", "if state == 7 then"),
    "a release keeps the places": (
        "release",
        "local left = slots_taken(raw) - amount",
        "local left = slots_taken(raw)",
    ),
    "a balance sells a unit too many": ("reserve", "amount > 0 and amount > available", "amount > available + 1"),
    "a pool admits one too many": (
        "reserve",
        "taken + plan[at + 1] > plan[at + 3]",
        "taken + plan[at + 1] > plan[at + 3] + 1",
    ),
    "a window is a millisecond short": (
        "reserve",
        "while oldest <= now - length do",
        "while oldest < now - length + 2 do",
    ),
    "a window stays where the clock was": ("reserve", "if newest > now then", "if newest > now + 9e15 then"),
    "a refusal takes": ("reserve", "write_all(plan, nil, nil, moves)", "write_all(plan, sets, renews, moves)"),
    "what is overdue still counts": (
        "reserve",
        "if earliest and earliest <= now then",
        "if earliest and earliest < 0 then",
    ),
    "an expiry settles what a window reserved": (
        "reap",
        "finish(key, id, hold, at, 4, 4,",
        "finish(key, id, hold, at, 2, 4,",
    ),
    "a quota holds what was settled": (
        "settle",
        "held = held - (ending == 1 and",
        "held = held - 0 * (ending == 1 and",
    ),
    "a late settle is charged twice": ("settle", "local own = live and", "local own = true and"),
    "a write with a known id is made again": ("account", "if known and write_id ~= '' then", "if false then"),
    "a ledger misses what is charged": (
        "settle",
        "if entries then\n    write_ledger",
        "if not entries then\n    write_ledger",
    ),
    "a raise takes the whole again": ("extend", "math.max(wanted[check] - floor_of(meter), 0)", "wanted[check]"),
    "a newcomer passes those who wait": (
        "reserve",
        "if amount > 0 and (waiting > 0 or all + amount > cap) then",
        "if amount > 0 and all + amount > cap then",
    ),
    "a freed place stays idle": ("release", "if not reaps and (freed or leaves) then", "if false then"),
    "who came last has the next turn": ("settle", "return one[1] < other[1]", "return one[1] > other[1]"),
    "a turn is given where there is no place": ("reap", "math.min(#heads, cap - taken)", "math.min(#heads, cap)"),
    "a turn begins before its request did": ("reap", "math.max(now - hold[2], 0)", "now - hold[2]"),
    "who gives up stays in line": ("release", "redis.call('ZREM', tenant_key('q:' .. leaves), id)", "local _ = id"),
    "who comes back to the line stands at its end": (
        "ticket",
        "redis.call('ZADD', KEYS[3], 'XX', ends, id)",
        "redis.call('ZADD', KEYS[3], 'XX', ends, id) redis.call('ZADD', tenant_key('q:' .. field), arrival + 9, id)",
    ),
    "a sample that comes again counts again": ("record", "local units = (number - before)", "local units = (number)"),
    "a sample of before takes the place of a later one": (
        "record",
        "elseif known and known > sequence then",
        "elseif known and known > sequence + 9 then",
    ),
    "a quota misses what samples add": ("record", "added[sample[cell]] + units", "added[sample[cell]]"),
    "a deleted tenant keeps its cells": ("delete", "redis.call('UNLINK', KEYS[1])", "local _ = 0"),
    "a deletion that has begun leaves holds due": (
        "delete",
        "for _, name in ipairs({ 'acct', 'due', 'grants', 'pools' }) do",
        "for _, name in ipairs({ 'acct', 'grants', 'pools' }) do",
    ),
    "a tenant takes something while it is deleted": (
        "reserve",
        "return version == plan[2] and now",
        "return (version == plan[2] or version == -1) and now",
    ),
    "a lapsed grant can still be spent": ("reap", "if grants[at + 1] <= at_ms then", "if grants[at + 1] < at_ms then"),
}
"""A script, a part of it as it is sent, and what stands there in its place."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_script_is_found(mutant: str) -> None:
    name, right, wrong = MUTANTS[mutant]
    source = script(name).source.decode()
    assert right in source
    store = SimulatedStore({name: source.replace(right, wrong).encode()})
    with few_slots():
        episodes = (draw_episode(seed, number) for number in range(MOST_EPISODES_FOR_A_MUTANT) for seed in (1, 2, 3))
        assert any(failure_of(episode, store) for episode in episodes)


def test_a_failure_is_cut_down_to_the_steps_that_it_takes() -> None:
    name, right, wrong = MUTANTS["a pool admits one too many"]
    store = SimulatedStore({name: script(name).source.decode().replace(right, wrong).encode()})
    with few_slots():
        episodes = (draw_episode(1, number) for number in range(MOST_EPISODES_FOR_A_MUTANT))
        episode, failure = next((e, found) for e in episodes if (found := failure_of(e, store)))
        short = shrunk(episode, failure[0], store)
        assert failure_of(short, store)
    assert 1 <= len(short.steps) <= 10


def test_a_seed_is_the_same_for_ever() -> None:
    assert draw_episode(5, 3) == draw_episode(5, 3)
    assert draw_episode(5, 3).steps != draw_episode(5, 4).steps
    steps = [step for number in range(5) for step in draw_episode(5, number).steps]
    assert any(isinstance(step, Clock) and step.by_ms < 0 for step in steps)
