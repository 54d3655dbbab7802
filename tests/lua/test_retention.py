"""What the store keeps for how long: the audit trail, tombstones, notes. The table is in docs/operating.md."""

from typing import Final

from server.domain.act import Act, Deed
from server.domain.policy import HoldTerms
from server.engine.client import StoreConnection
from server.engine.hands import Reset
from server.engine.keys import tenant_keys
from server.engine.redis_engine import RedisEngine
from tests.policies_for_tests import HOUR_MS, TERMS, policy, quota, window
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Tenant

KEPT_MS: Final = 400 * 24 * HOUR_MS
MOST_ACTS: Final = 10_000
MOST_NOTES: Final = 1000


def lab_on(store: RunningStore, connection: StoreConnection, terms: HoldTerms = TERMS) -> Tenant:
    store.command("FLUSHALL")
    clock = Clock()
    rules = policy(window("rpm", 10**6), quota("q", 10**6, thresholds=(1,)), terms=terms)
    return Tenant(RedisEngine(connection, clock=clock), clock, rules)


async def act(lab: Tenant, reset_id: str) -> None:
    form = next(check for check in lab.plan().shape.checks if check.limit.id == "rpm")
    done = Act(Deed.RESET, "ops", "why", "rpm", reset_id)
    await lab.engine.hands.reset(lab.ref, Reset(form, 0, every=False), done, b"m", WITHIN_S)


async def told(lab: Tenant) -> list[str]:
    """The ids of the acts in the trail."""
    lines, place = [], ""
    while True:
        page, place = await lab.engine.hands.acts(lab.ref, place, MOST_ACTS, WITHIN_S)
        lines += [line.act.request_id for line in page]
        if not place:
            return lines


async def test_an_act_is_kept_for_400_days_and_leaves_with_the_next_one(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    lab = lab_on(valkey, connect_valkey)
    await act(lab, "old")
    lab.clock.advance(1)
    await act(lab, "younger")
    lab.clock.advance(KEPT_MS)
    await act(lab, "new")
    assert await told(lab) == ["younger", "new"]


async def test_a_trail_that_nothing_is_added_to_leaves_as_a_whole(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    lab = lab_on(valkey, connect_valkey)
    await act(lab, "a")
    ttl_ms = valkey.command("PTTL", tenant_keys(lab.ref).acts)
    assert KEPT_MS - HOUR_MS < ttl_ms <= KEPT_MS


async def test_a_hash_slot_keeps_its_last_ten_thousand_acts(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    lab = lab_on(valkey, connect_valkey)
    await act(lab, "first")
    key = tenant_keys(lab.ref).acts
    ((entry_id, fields),) = valkey.command("XRANGE", key, "-", "+")
    more = "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2], unpack(ARGV, 3)) end"
    stamp = entry_id.partition(b"-")[0] + b"-*"
    valkey.command("EVAL", more, 1, key, MOST_ACTS - 1, stamp, *fields)
    await act(lab, "last")
    assert valkey.command("XLEN", key) == MOST_ACTS
    assert (await told(lab))[-1] == "last"


async def test_the_trail_goes_on_in_order_when_the_clock_steps_back(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    lab = lab_on(valkey, connect_valkey)
    for number in range(4):
        await act(lab, f"{number}")
        lab.clock.advance(-HOUR_MS)
    assert await told(lab) == ["0", "1", "2", "3"]


async def test_a_tombstone_lives_as_long_as_its_policy_says(
    valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    lab = lab_on(valkey, connect_valkey, HoldTerms(lease_ms=HOUR_MS, longest_ms=HOUR_MS, tombstone_ms=7 * HOUR_MS))
    for name in ("settled", "released"):
        await lab.grant(name, frames=1)
        assert valkey.command("PTTL", tenant_keys(lab.ref).hold(name)) == -1
    await lab.settle("settled")
    await lab.release("released")
    for name in ("settled", "released"):
        ttl_ms = valkey.command("PTTL", tenant_keys(lab.ref).hold(name))
        assert 7 * HOUR_MS - 60_000 < ttl_ms <= 7 * HOUR_MS


async def test_a_tenant_keeps_its_last_thousand_notes(valkey: RunningStore, connect_valkey: StoreConnection) -> None:
    lab = lab_on(valkey, connect_valkey)
    await lab.grant("h", frames=20_000)
    key = tenant_keys(lab.ref).notes
    more = "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], '1-*', 'kind', 'threshold') end"
    valkey.command("EVAL", more, 1, key, MOST_NOTES + 50)
    await lab.settle("h")
    assert valkey.command("XLEN", key) == MOST_NOTES
    assert b"percent" in valkey.command("XREVRANGE", key, "+", "-", "COUNT", 1)[0][1]
