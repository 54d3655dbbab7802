"""The deletion of a tenant, on every engine: all or nothing of it, nothing of others, and one line that it was."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account, Override
from server.domain.act import Act, Deed
from server.domain.errors import AccountChangedError, HoldNotFoundError, TenantInUseError
from server.domain.hold import State
from server.domain.limits import Balance
from server.domain.limits.balance import GrantSource
from server.domain.policy import Policy
from server.engine.base import AccountWrite, Granted, Stale
from server.engine.client import StoreConnection
from server.engine.hands import Deletion
from server.engine.keys import tenant_keys
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.lua.scenes import RICH, Scene
from tests.policies_for_tests import HOUR_MS, TERMS, balance, policy, quota, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Tenant

Tenants = Callable[[Policy], Tenant]

ACT: Final = Act(Deed.DELETE, "ops", "asked for")
LAB: Final = policy(window("rpm", 9999), slots("jobs", 9999), quota("q", 9999), balance("credits"))


async def delete(lab: Tenant, *, forced: bool = False) -> list[Deletion]:
    """All steps of a deletion."""
    steps = [await lab.engine.hands.delete(lab.ref, ACT, forced=forced, place="", within_s=WITHIN_S)]
    while steps[-1].place:
        place = steps[-1].place
        steps.append(await lab.engine.hands.delete(lab.ref, ACT, forced=forced, place=place, within_s=WITHIN_S))
    return steps


async def told(lab: Tenant) -> list[Act]:
    lines, _ = await lab.engine.hands.acts(lab.ref, "", 100, WITHIN_S)
    return [line.act for line in lines]


async def test_a_deleted_tenant_is_new(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("a", frames=10, credits=30)
    await lab.settle("a")

    (step,) = await delete(lab)

    assert step.applied
    assert (await lab.find("a"))[1:] == (None, None)
    assert await told(lab) == [ACT._replace(before="holds=0")]
    lab.account = Account("free")
    figures = await lab.figures()
    assert {name: look.used for name, look in figures.items()} == dict.fromkeys(("rpm", "jobs", "q", "credits"), 0)
    await lab.open(credits=5)
    await lab.grant("a", frames=10, credits=5)


async def test_open_holds_keep_a_tenant_unless_it_is_forced(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("a", credits=30)
    await lab.grant("b", credits=30)
    with pytest.raises(TenantInUseError, match="has 2 open holds") as refused:
        await delete(lab)
    assert refused.value.metadata == {"holds": "2"}
    assert (await lab.figures())["credits"].held == 60

    (step,) = await delete(lab, forced=True)

    assert (step.applied, step.holds) == (True, 2)
    with pytest.raises(HoldNotFoundError):
        await lab.settle("a")
    assert await told(lab) == [ACT._replace(before="holds=2")]


async def test_holds_that_are_over_do_not_keep_a_tenant(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("a", credits=30)
    lab.clock.advance(TERMS.lease_ms)
    (step,) = await delete(lab)
    assert (step.applied, step.holds) == (True, 0)


async def test_what_time_will_change_is_no_open_hold(tenant: Tenants) -> None:
    """A grant that lapses, and an allowance that an override raises for a while."""
    rules = policy(quota("q", 10), balance("credits", burn="312"))
    lab = tenant(rules)
    ends_ms = lab.clock() + HOUR_MS
    account = Account("free", overrides=(Override("q", 20, ends_ms),), version=1)
    write = AccountWrite(
        account=account,
        grants={rules.limits[1].cell: 5},
        source=GrantSource.PROMOTIONAL,
        expires_at_ms=ends_ms,
        balances={limit.cell: limit for limit in rules.limits if isinstance(limit, Balance)},
        limits_ms=ends_ms,
    )
    await lab.write(write)
    lab.account = account
    await lab.grant("a", frames=1, credits=1)
    with pytest.raises(TenantInUseError, match="has 1 open holds"):
        await delete(lab)
    await lab.release("a")
    (step,) = await delete(lab)
    assert (step.applied, step.holds) == (True, 0)


async def test_what_is_deleted_twice_is_told_once(tenant: Tenants) -> None:
    lab = tenant(LAB)
    assert await delete(lab) == [Deletion(applied=False, holds=0, keys=0, place="")]
    await lab.open(credits=1)
    assert [(await delete(lab))[-1].applied for _ in range(3)] == [True, False, False]
    assert len(await told(lab)) == 1


async def test_a_tenant_with_nothing_but_windows_is_deleted_too(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 1)))
    await lab.grant()
    await lab.refusal()
    assert any(step.applied for step in await delete(lab))
    await lab.grant()
    assert len(await told(lab)) == 1


# in a real store


@pytest.mark.parametrize("name", ["acme", "a*", "a?b[c]\\d", "-^é", "{x}"])
async def test_nothing_is_left_in_the_store_and_neighbours_keep_all(
    name: str, store: RunningStore, connection: StoreConnection
) -> None:
    """Of a tenant that has had everything, and of one with any characters in its name: to the key."""
    scene = await Scene.build(store, connection)
    lab = Tenant(scene.tenant.engine, scene.tenant.clock, RICH, scene.tenant.ref._replace(tenant=name))
    if name == "acme":
        lab = scene.tenant
    else:
        await lab.open(credits=50, purse=50)
        await lab.grant("mine", tokens=3, credits=5)
    others = [replace(lab, ref=lab.ref._replace(tenant=other)) for other in (f"{name}x", "a", "axbcd")]
    for other in others:
        await other.engine.write_account(other.ref, AccountWrite(account=Account("free", version=1)), WITHIN_S)
    prefix = tenant_keys(lab.ref).prefix
    before = {key: store.command("DUMP", key) for key in store.command("KEYS", "*")}

    assert (await delete(lab, forced=True))[-1].place == ""

    after = {key: store.command("DUMP", key) for key in store.command("KEYS", "*")}
    indexes = {tenant_keys(lab.ref).due_index, tenant_keys(lab.ref).noted}
    assert not [key for key in after if key.startswith(prefix)]
    kept = {key: dump for key, dump in before.items() if not key.startswith(prefix) and key not in indexes}
    assert {key: dump for key, dump in after.items() if key not in indexes} == {**kept, **only(after, lab)}
    for index in indexes & after.keys():
        assert tenant_keys(lab.ref).member not in store.command("ZRANGE", index, 0, -1)


def only(keys: dict[bytes, bytes], lab: Tenant) -> dict[bytes, bytes]:
    """Of these keys the trail, the one that a deletion writes."""
    return {tenant_keys(lab.ref).acts: keys[tenant_keys(lab.ref).acts]}


@pytest.fixture
async def crowded(valkey: RunningStore, connect_valkey: StoreConnection) -> Tenant:
    """A tenant with so many tombstones, in a store with others beside, that no one call deletes it all."""
    valkey.command("FLUSHALL")
    clock = Clock()
    lab = Tenant(RedisEngine(connect_valkey, clock=clock), clock, LAB)
    await lab.open(credits=10)
    await lab.grant("h", credits=1)
    await lab.settle("h")
    record = valkey.command("GET", tenant_keys(lab.ref).hold("h"))
    script = "for n = 1, 20000 do redis.call('SET', ARGV[1] .. n, ARGV[2], 'PX', 9e6) end"
    valkey.command("EVAL", script, 0, tenant_keys(lab.ref).hold("old"), record)
    valkey.command("EVAL", script, 0, b"hg:{lab/other}:h:", record)
    return lab


async def test_a_large_tenant_is_deleted_in_steps_and_takes_nothing_new_meanwhile(
    crowded: Tenant, valkey: RunningStore
) -> None:
    hands, ref = crowded.engine.hands, crowded.ref
    step = await hands.delete(ref, ACT, forced=False, place="", within_s=WITHIN_S)
    assert step.applied
    assert step.place
    answer = await crowded.reserve(crowded.plan("new", credits=1))
    assert isinstance(answer, Stale)
    for version in (0, 1):
        write = AccountWrite(account=Account("free", version=version + 1), expected_version=version)
        with pytest.raises(AccountChangedError, match="is being deleted"):
            await crowded.write(write)
    with pytest.raises(AccountChangedError, match="is being deleted"):
        await crowded.top_up("grant", credits=5)

    steps = await delete(crowded)  # whoever began it never came back

    assert not any(step.applied for step in steps)
    assert not valkey.command("KEYS", tenant_keys(ref).prefix + b"*")
    assert len(valkey.command("KEYS", "hg:{lab/other}:*")) == 20_000
    assert len(await told(crowded)) == 1
    crowded.account = Account("free")
    await crowded.open(credits=5)
    await crowded.grant("h", credits=5)


async def test_a_deletion_that_goes_on_when_it_is_over_takes_nothing_of_who_came_since(crowded: Tenant) -> None:
    """Its place was that of another deletion, which has ended."""
    stale = await crowded.engine.hands.delete(crowded.ref, ACT, forced=False, place="", within_s=WITHIN_S)
    await delete(crowded)
    crowded.account = Account("free")
    await crowded.open(credits=5)
    await crowded.grant("h", credits=5)
    place = stale.place
    while place:
        step = await crowded.engine.hands.delete(crowded.ref, ACT, forced=True, place=place, within_s=WITHIN_S)
        assert not step.keys
        place = step.place
    assert (await crowded.settle("h", {"credits": 3})).applied


async def test_more_holds_than_one_call_ends_are_ended_before(valkey: RunningStore, crowded: Tenant) -> None:
    for number in range(700):
        await crowded.grant(f"open{number}", frames=0)
    steps = await delete(crowded, forced=True)
    assert sum(step.holds for step in steps) == 700
    assert [act.before for act in await told(crowded)] == ["holds=700"]
    assert not valkey.command("KEYS", tenant_keys(crowded.ref).prefix + b"*")


async def test_requests_that_race_a_deletion_leave_a_whole_tenant_or_nothing(
    store: RunningStore, connect: Connect
) -> None:
    """Callers that plan anew whenever they are told to, on connections of their own, and deletions among them."""
    clock = Clock()
    engines = [RedisEngine(await connect(store), clock=clock) for _ in range(4)]
    labs = [
        Tenant(engine, clock, policy(window("rpm", 9999), slots("jobs", 99), quota("q", 9999))) for engine in engines
    ]
    granted = settled = deleted = 0

    async def call(lab: Tenant, name: str) -> None:
        nonlocal granted, settled
        for number in range(40):
            hold_id = f"{name}-{number}"
            if isinstance(await lab.reserve(lab.plan(hold_id, frames=3)), Granted):
                granted += 1
                with suppress(HoldNotFoundError):
                    settled += (await lab.settle(hold_id, {"frames": 2})).state is State.SETTLED

    async def clear() -> None:
        nonlocal deleted
        for _ in range(25):
            deleted += (await delete(labs[-1], forced=True))[0].applied

    await asyncio.gather(clear(), *(call(lab, f"{at}") for at, lab in enumerate(labs[:-1])))

    assert granted > settled > 0
    assert deleted > 1
    assert broken_rules(snapshot(store)) == []
    assert len(await told(labs[0])) == deleted
    await delete(labs[0], forced=True)
    assert [key for key in snapshot(store) if b"/" in key] == []
