"""Sizes and numbers that must stay within bounds, whatever callers do: seen in real stores only."""

from typing import Final

import pytest

from server.domain.errors import CorruptStateError, HoldStateError
from server.domain.hold import State
from server.domain.policy import HoldTerms, Policy
from server.domain.units import MAX_AMOUNT
from server.engine.client import StoreConnection
from server.engine.keys import tenant_keys
from server.engine.redis_engine import RedisEngine
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, balance, policy, slots, window
from tests.store_state import snapshot
from tests.stores import RunningStore
from tests.tenants import Clock, Tenant

MOST_WINDOW_BYTES: Final = 13 + 13 * 1065
"""A head, 64 entries that are kept apart, and one for each thousandth of the window."""


def tenant_on(connection: StoreConnection, rules: Policy) -> Tenant:
    clock = Clock()
    return Tenant(RedisEngine(connection, clock=clock), clock, rules)


@pytest.mark.parametrize("amount", [1, 10**12])
async def test_a_window_stays_small_under_any_traffic(
    amount: int, valkey: RunningStore, connect_valkey: StoreConnection
) -> None:
    """Whatever the amounts, and with reserves that are given back at once."""
    valkey.command("FLUSHALL")
    lab = tenant_on(connect_valkey, policy(window("tpm", MAX_AMOUNT, "tokens")))
    key = tenant_keys(lab.ref).windows("")
    for number in range(5000):
        await lab.grant("" if number % 3 else f"h{number}", tokens=amount)
        if number % 3 == 0:
            await lab.settle(f"h{number}", {"tokens": 0})
        lab.clock.advance(15)

    size = valkey.command("HSTRLEN", key, "tpm~w")
    assert MOST_WINDOW_BYTES / 2 < size <= MOST_WINDOW_BYTES
    ttl_ms = valkey.command("PTTL", key)
    assert MINUTE_MS < ttl_ms <= 2 * MINUTE_MS


async def test_a_window_outlives_its_length_in_the_store(valkey: RunningStore, connect_valkey: StoreConnection) -> None:
    """The key's TTL is renewed at least once in each half of a window, so that an hour's cell lasts an hour."""
    valkey.command("FLUSHALL")
    lab = tenant_on(connect_valkey, policy(window("rph", 10**6, window_ms=HOUR_MS), window("rpm", 10**6)))
    key = tenant_keys(lab.ref).windows("")
    for _ in range(200):
        valkey.command("PERSIST", key)
        await lab.grant()
        renewed = valkey.command("PTTL", key) > 0
        lab.clock.advance(10_000)
        if not renewed:
            continue
        assert HOUR_MS < valkey.command("PTTL", key) <= 2 * HOUR_MS
        since_ms = lab.clock()
    assert lab.clock() - since_ms < HOUR_MS / 2 + 10_000


async def test_what_a_double_cannot_count_is_refused_whole(store: RunningStore, connection: StoreConnection) -> None:
    """Usage that brings a window or a balance's history above 2^53 - 1: an error, and not a byte changed."""
    for limit in (window("tpm", MAX_AMOUNT, "tokens"), balance("purse", "tokens")):
        store.command("FLUSHALL")
        lab = tenant_on(connection, policy(limit))
        await lab.grant("a", tokens=0)
        await lab.grant("b", tokens=0)
        await lab.settle("a", {"tokens": MAX_AMOUNT - 1})
        before = snapshot(store)

        with pytest.raises(CorruptStateError):
            await lab.settle("b", {"tokens": MAX_AMOUNT})

        assert snapshot(store) == before
        await lab.settle("b", {"tokens": 1})


async def test_a_hold_raised_too_often_within_a_window_is_told_so(
    store: RunningStore, connection: StoreConnection
) -> None:
    """Its record has a bounded number of parts; those that have left their window make room."""
    store.command("FLUSHALL")
    day = HoldTerms(lease_ms=HOUR_MS, longest_ms=24 * HOUR_MS)
    lab = tenant_on(connection, policy(window("tpm", 10**6, "tokens"), balance("credits"), terms=day))
    await lab.open(credits=10**6)
    await lab.grant("h", tokens=1, credits=1)
    for total in range(2, 399):
        lab.clock.advance(1)
        assert (await lab.raise_to("h", tokens=total, credits=total)).raised
    with pytest.raises(HoldStateError, match="raised too often") as error:
        await lab.raise_to("h", tokens=500)

    assert error.value.metadata["state"] == State.ACTIVE.name
    before = snapshot(store)
    with pytest.raises(HoldStateError):
        await lab.extend("h", lab.plan(tokens=500), {"credits": 5})
    assert snapshot(store) == before
    await lab.renew("h", credits=5)
    lab.clock.advance(MINUTE_MS)
    assert (await lab.raise_to("h", tokens=500)).raised
    assert (await lab.settle("h", {"tokens": 7, "credits": 7})).state is State.SETTLED


# budgets of memory, by the store's own account


FIVE: Final = policy(
    window("rpm", 10**6),
    window("rph", 10**6, window_ms=HOUR_MS),
    window("tpm", 10**9, "tokens", scope=("project",)),
    slots("jobs", 10**6),
    balance("credits"),
)


def used_bytes(store: RunningStore, *keys: bytes) -> int:
    return sum(store.command("MEMORY", "USAGE", key, "SAMPLES", 0) or 0 for key in keys)


async def test_records_keep_their_budget_of_memory(valkey: RunningStore, connect_valkey: StoreConnection) -> None:
    """With five limits: an open hold, an ended one, and a tenant without traffic."""
    valkey.command("FLUSHALL")
    lab = tenant_on(connect_valkey, FIVE)
    await lab.open(credits=10**9)
    tenant = tenant_keys(lab.ref)
    idle = used_bytes(valkey, tenant.cells, tenant.account)
    for number in range(100):
        await lab.grant(f"{number:032x}", tokens=800, credits=1200)

    hold_key = tenant.hold(f"{7:032x}")
    open_bytes = used_bytes(valkey, hold_key) + used_bytes(valkey, tenant.due) // 100
    await lab.settle(f"{7:032x}", {"tokens": 700, "credits": 900})
    ended_bytes = used_bytes(valkey, hold_key)

    assert idle <= 1024
    assert open_bytes <= 400
    assert ended_bytes <= 300
