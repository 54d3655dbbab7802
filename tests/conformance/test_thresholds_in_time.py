"""Thresholds that time alone makes use reach, on every engine: no traffic, and the sweeper finds them, once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from server.domain.account import Account, Override, TierOverride
from server.domain.allowances import next_change_ms
from server.domain.operation import Operation, TenantRef
from server.domain.plan import usage_plan
from server.domain.policy import Policy
from server.domain.tiers import Tiers
from server.domain.units import FOREVER_MS
from server.engine.base import AccountWrite, Cycles
from tests.policies_for_tests import HOUR_MS, policy, quota
from tests.tenants import EVERYWHERE, WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

ALLOWANCE: Final = policy(
    quota("frames", 100, overage=None), quota("each", 50, scope=("project",), overage=None, thresholds=(90,))
)


async def told(tenant: Tenant) -> list[tuple[str, int, int]]:
    notes = await tenant.engine.notes(tenant.ref, "", 100, WITHIN_S)
    return [(note.cell.partition("~")[0], note.percent, note.limit) for note in notes]


async def put(tenant: Tenant, *overrides: Override) -> None:
    """The account as an operator writes it."""
    before = tenant.account
    account = replace(before, overrides=overrides, version=before.version + 1)
    limits_ms = next_change_ms(tenant.policy, account, tenant.clock())
    await tenant.write(AccountWrite(account=account, expected_version=before.version, limits_ms=limits_ms))
    tenant.account = account


async def use(tenant: Tenant, hold_id: str, frames: int) -> None:
    await tenant.grant(hold_id, frames=frames)
    await tenant.settle(hold_id)


def raised(tenant: Tenant, limit_id: str, value: int, lasts_ms: int) -> Override:
    return Override(limit_id, value, tenant.clock() + lasts_ms)


async def test_an_override_that_ends_below_what_was_used_is_told_by_the_sweeper_once(tenant: Tenants) -> None:
    lab = tenant(ALLOWANCE)
    await put(lab, raised(lab, "frames", 1000, HOUR_MS), raised(lab, "each", 1000, 2 * HOUR_MS))
    await use(lab, "h1", 85)
    lab.clock.advance(HOUR_MS - 1)
    await lab.engine.sweep()
    assert await told(lab) == []

    lab.clock.advance(1)
    await lab.engine.sweep()
    await lab.engine.sweep()
    assert await told(lab) == [("frames", 80, 100)]

    lab.clock.advance(HOUR_MS)
    await lab.engine.sweep()
    assert await told(lab) == [("frames", 80, 100), ("each", 90, 50)]


async def test_who_comes_before_the_sweeper_finds_it_told(tenant: Tenants) -> None:
    lab = tenant(ALLOWANCE)
    await put(lab, raised(lab, "frames", 1000, HOUR_MS))
    await use(lab, "h1", 40)
    await put(lab, raised(lab, "frames", 45, HOUR_MS))
    await lab.engine.books.note_thresholds(lab.ref, WITHIN_S)
    assert await told(lab) == [("frames", 80, 45)]
    await put(lab, raised(lab, "frames", 50, HOUR_MS))
    lab.clock.advance(2 * HOUR_MS)
    await use(lab, "h2", 9)  # 49 of 100: the end of the override is found first, and is no crossing
    assert await told(lab) == [("frames", 80, 45), ("each", 90, 50)]
    await use(lab, "h3", 31)
    assert (await told(lab))[2:] == [("frames", 80, 100)]


async def test_an_override_that_is_taken_away_leaves_nothing_to_find(tenant: Tenants) -> None:
    """The instant stays due until it has come; then there is nothing to tell, and nothing is due any more."""
    lab = tenant(ALLOWANCE)
    await put(lab, raised(lab, "frames", 1000, HOUR_MS))
    await use(lab, "h1", 70)
    await put(lab)
    lab.clock.advance(HOUR_MS)
    await lab.engine.sweep()
    await lab.engine.sweep()
    assert await told(lab) == [("each", 90, 50)]
    assert await lab.engine.open_holds(lab.ref, (0, ""), 10, WITHIN_S) == []


async def test_the_first_of_several_ends_is_due_first(tenant: Tenants) -> None:
    lab = tenant(ALLOWANCE)
    await put(lab, raised(lab, "frames", 1000, 3 * HOUR_MS), raised(lab, "each", 1000, HOUR_MS))
    await use(lab, "h1", 95)
    for _ in range(3):
        lab.clock.advance(HOUR_MS)
        await lab.engine.sweep()
    assert await told(lab) == [("each", 90, 50), ("frames", 80, 100)]


async def test_a_tier_that_ends_is_found_too(tenant: Tenants) -> None:
    ladder = Tiers(("free", "pro"), (0, 10_000_000))
    lab = tenant(replace(policy(quota("frames", {"free": 10, "pro": 1000})), tiers=ladder, plans=("free", "pro")))
    account = Account("", version=1, tier_override=TierOverride("pro", lab.clock() + HOUR_MS))
    limits_ms = next_change_ms(lab.policy, account, lab.clock())
    await lab.write(AccountWrite(account=account, limits_ms=limits_ms))
    lab.account = replace(account, plan="pro")
    await use(lab, "h1", 9)
    lab.clock.advance(HOUR_MS)
    await lab.engine.sweep()
    assert await told(lab) == [("frames", 80, 10)]


async def test_the_start_of_a_cycle_with_a_smaller_allowance_tells_nothing(tenant: Tenants) -> None:
    """Nothing of it is used yet; the cycle before keeps what it was told under."""
    lab = tenant(ALLOWANCE)
    await put(lab, raised(lab, "frames", 1000, 40 * 24 * HOUR_MS))
    await use(lab, "h1", 44)
    lab.clock.advance(40 * 24 * HOUR_MS)
    await lab.engine.sweep()
    assert await told(lab) == []


async def test_a_lowered_policy_is_found_by_a_look(tenant: Tenants) -> None:
    lab = tenant(ALLOWANCE)
    await use(lab, "h1", 40)
    tenant(policy(quota("frames", 50, overage=None)))  # what the engine's policy is from now on
    await lab.engine.books.note_thresholds(lab.ref, WITHIN_S)
    await lab.engine.books.note_thresholds(TenantRef("lab", "nobody"), WITHIN_S)
    await lab.engine.books.note_thresholds(lab.ref, WITHIN_S)
    assert await told(lab) == [("frames", 80, 50)]


async def test_a_look_opens_no_cycle(tenant: Tenants) -> None:
    """Where nothing was used nothing is reached, and a cycle that nobody asked anything of is none."""
    lab = tenant(ALLOWANCE)
    await use(lab, "h1", 40)
    lab.clock.advance(40 * 24 * HOUR_MS)
    await lab.engine.books.note_thresholds(lab.ref, WITHIN_S)
    operation = Operation(ref=lab.ref, action="", scope=EVERYWHERE)
    answer = await lab.engine.cycles(usage_plan(lab.policy, operation, lab.account, lab.clock()), WITHIN_S)
    assert isinstance(answer, Cycles)
    assert [cycle.within for cycle in answer.cycles[0]] == [40]


def test_what_no_threshold_watches_is_not_due() -> None:
    rules = policy(quota("frames", 100, thresholds=()), quota("other", 10))
    ends = (Override("frames", 5, 50), Override("other", 5, 100), Override("other", 6, 70))
    account = Account("free", overrides=ends)
    assert next_change_ms(rules, account, 60) == 70
    assert next_change_ms(rules, account, 70) == 100
    assert next_change_ms(rules, account, 100) == FOREVER_MS
    assert next_change_ms(policy(quota("frames", 100, thresholds=())), account, 0) == FOREVER_MS


async def test_an_allowance_of_nothing_has_no_thresholds(tenant: Tenants) -> None:
    """A share of nothing is none: neither an allowance that falls to it nor use that goes beyond it is told."""
    lab = tenant(policy(quota("frames", 0, overage=None)))
    await use(lab, "h1", 3)
    await put(lab, raised(lab, "frames", 100, HOUR_MS))
    lab.clock.advance(HOUR_MS)
    await lab.engine.sweep()
    assert await told(lab) == []
