"""What is kept of how far notes have been told: the same on the memory engine and on real stores."""

from typing import Final

import pytest

from server.domain.operation import TenantRef
from server.engine.base import Engine
from tests.policies_for_tests import policy, quota
from tests.tenants import WITHIN_S, Clock, Tenant

RULES: Final = policy(quota("q", 100, overage=None, thresholds=(50, 80, 100)))


@pytest.fixture
def tenant(engine: Engine, clock: Clock) -> Tenant:
    return Tenant(engine, clock, RULES)


async def use(tenant: Tenant, frames: int) -> None:
    hold_id = f"h{tenant.clock.now_ms}"
    await tenant.grant(hold_id, frames=frames)
    await tenant.settle(hold_id)
    tenant.clock.advance(1000)


async def ids(tenant: Tenant) -> list[str]:
    return [note.note_id for note in await tenant.engine.notes(tenant.ref, "", 10, WITHIN_S)]


async def waiting(tenant: Tenant) -> bool:
    return tenant.ref in await tenant.engine.feed.untold(WITHIN_S)


async def test_a_tenant_waits_from_its_first_note_until_its_last_is_told(tenant: Tenant) -> None:
    feed, ref = tenant.engine.feed, tenant.ref
    assert not await waiting(tenant)
    await use(tenant, 50)
    began_ms = (await feed.untold(WITHIN_S))[ref]
    await use(tenant, 50)
    assert (await feed.untold(WITHIN_S))[ref] == began_ms == tenant.clock.now_ms - 2000
    cursor = ""
    for note_id in await ids(tenant):
        assert await waiting(tenant)
        assert await feed.cursor(ref, WITHIN_S) == cursor
        assert await feed.tell(ref, cursor, note_id, WITHIN_S)
        cursor = note_id
    assert not await waiting(tenant)


async def test_one_of_two_who_tell_the_same_moves_the_cursor(tenant: Tenant) -> None:
    await use(tenant, 100)
    first, second, _ = await ids(tenant)
    feed, ref = tenant.engine.feed, tenant.ref
    assert await feed.tell(ref, "", first, WITHIN_S)
    assert not await feed.tell(ref, "", second, WITHIN_S)
    assert await feed.cursor(ref, WITHIN_S) == first
    assert await waiting(tenant)


async def test_a_note_that_is_made_meanwhile_keeps_the_tenant_waiting(tenant: Tenant) -> None:
    await use(tenant, 50)
    (first,) = await ids(tenant)
    await use(tenant, 30)
    assert await tenant.engine.feed.tell(tenant.ref, "", first, WITHIN_S)
    assert await waiting(tenant)


async def test_tenants_wait_side_by_side(tenant: Tenant) -> None:
    others = [Tenant(tenant.engine, tenant.clock, RULES, TenantRef("lab", f"t{number}/ü{{x}}")) for number in range(30)]
    for other in others:
        await use(other, 50)
    found = await tenant.engine.feed.untold(WITHIN_S)
    assert sorted(found, key=found.__getitem__) == [other.ref for other in others]


async def test_a_lease_is_ones_until_it_is_given_back(engine: Engine, clock: Clock) -> None:
    feed, began_ms = engine.feed, clock.now_ms
    assert await feed.hold_lease("one", 60_000, WITHIN_S) == began_ms
    clock.advance(5)
    assert await feed.hold_lease("other", 60_000, WITHIN_S) is None
    assert await feed.hold_lease("other", 0, WITHIN_S) is None
    assert await feed.hold_lease("one", 60_000, WITHIN_S) == began_ms
    assert await feed.hold_lease("one", 0, WITHIN_S) == began_ms
    assert await feed.hold_lease("other", 60_000, WITHIN_S) == began_ms
    await feed.hold_lease("other", 0, WITHIN_S)
