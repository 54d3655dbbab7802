"""Thresholds of balances, on every engine: told once for each fall, whatever made it, and again after a rise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from server.domain.account import Account
from server.domain.ledger import Cause
from server.domain.limits.balance import GrantSource
from server.domain.limits.base import PlanValues
from server.domain.policy import Policy
from server.domain.refill import marks_of, refills_of
from server.engine.base import AccountWrite
from tests.policies_for_tests import HOUR_MS, TERMS, balance, policy
from tests.tenants import WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

MARKS: Final = (50, 10, 0)
PURSE: Final = policy(balance("credits", debt=5, thresholds=MARKS))
APART: Final = policy(balance("credits", burn="312", refill=100, ledger=True, thresholds=MARKS))
CELL: Final = PURSE.limits[0].cell


async def told(tenant: Tenant) -> list[tuple[int | None, int]]:
    """Each note's mark, and what was left."""
    return [(note.mark, note.left) for note in await tenant.engine.notes(tenant.ref, "", 100, WITHIN_S)]


async def spend(tenant: Tenant, hold_id: str, units: int) -> None:
    await tenant.grant(hold_id, credits=units)
    await tenant.settle(hold_id)


async def take_back(tenant: Tenant, write_id: str, units: int) -> None:
    balances = {limit.cell: limit for limit in tenant.policy.limits}
    await tenant.write(
        AccountWrite(
            grants={CELL: -units},
            source=GrantSource.BOUGHT,
            balances=balances,  # type: ignore[arg-type]  # there are no other limits
            marks=marks_of(tenant.policy, tenant.account, tenant.clock()),
            cause=Cause.REFUND,
            write_id=write_id,
        )
    )


async def test_the_settle_that_reaches_a_mark_is_told_once(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await spend(lab, "h1", 49)
    assert await told(lab) == []
    await spend(lab, "h2", 1)
    await spend(lab, "h3", 5)
    await lab.settle("h2")  # again
    assert await told(lab) == [(50, 50)]


async def test_a_fall_past_several_marks_tells_all_of_them_the_highest_first(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await spend(lab, "h1", 95)
    assert await told(lab) == [(50, 5), (10, 5)]


async def test_what_is_held_is_not_spent(tenant: Tenants) -> None:
    """Neither a hold that leaves nothing available nor its release tells anything: only a charge does."""
    lab = tenant(PURSE)
    await lab.open(credits=100)
    await lab.grant("h1", credits=100)
    await lab.release("h1")
    await lab.grant("h2", credits=100)
    lab.clock.advance(TERMS.lease_ms)
    await lab.figures()
    assert await told(lab) == []
    await lab.settle("h2", {"credits": 100})  # late
    assert await told(lab) == [(50, 0), (10, 0), (0, 0)]


async def test_a_report_and_what_goes_beyond_the_hold_tell_too(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=60)
    await lab.grant("h1", credits=20)
    await lab.report("h1", {"credits": 10})
    assert await told(lab) == [(50, 50)]
    await lab.renew("h1", credits=60)
    assert await told(lab) == [(50, 50), (10, 0), (0, 0)]
    await lab.settle("h1", {"credits": 70})  # into debt: nothing was left before
    assert await told(lab) == [(50, 50), (10, 0), (0, 0)]


async def test_a_top_up_above_a_mark_arms_it_again(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=60)
    await spend(lab, "h1", 15)
    await lab.write(AccountWrite(grants={CELL: 5}, write_id="p1"))  # 50: not above the mark
    await spend(lab, "h2", 1)
    assert await told(lab) == [(50, 45)]
    await lab.write(AccountWrite(grants={CELL: 2}, write_id="p2"))
    await spend(lab, "h3", 1)
    assert await told(lab) == [(50, 45), (50, 50)]


async def test_a_refund_tells_once_however_often_it_is_sent(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=60)
    await take_back(lab, "r1", 20)
    await take_back(lab, "r1", 20)
    assert await told(lab) == [(50, 40)]


async def test_a_grant_that_lapses_is_told_without_traffic(tenant: Tenants) -> None:
    """With the instant at which it lapsed, as soon as the sweeper comes."""
    lab = tenant(APART)
    await lab.open(credits=8)
    balances = {limit.cell: limit for limit in APART.limits}
    expires_ms = lab.clock() + HOUR_MS
    promotion = AccountWrite(
        grants={CELL: 60},
        source=GrantSource.PROMOTIONAL,
        expires_at_ms=expires_ms,
        balances=balances,  # type: ignore[arg-type]  # there are no other limits
        cause=Cause.GRANT,
        write_id="promotion",
    )
    await lab.write(promotion)
    lab.clock.advance(2 * HOUR_MS)
    await lab.engine.sweep()
    await lab.engine.sweep()
    notes = await lab.engine.notes(lab.ref, "", 100, WITHIN_S)
    assert [(note.at_ms, note.mark, note.left) for note in notes] == [(expires_ms, 50, 8), (expires_ms, 10, 8)]


async def test_a_lapse_that_a_refill_makes_good_is_no_fall(tenant: Tenants) -> None:
    lab = tenant(APART)
    account = Account("free", created_at_ms=lab.clock(), version=1)
    refills = refills_of(APART, account, lab.clock())
    balances = {limit.cell: limit for limit in APART.limits}
    await lab.write(AccountWrite(account=account, balances=balances, refills=refills))  # type: ignore[arg-type]  # as above
    promotion = AccountWrite(
        grants={CELL: 60},
        source=GrantSource.PROMOTIONAL,
        expires_at_ms=refills[0].cycle.end_ms,
        balances=balances,  # type: ignore[arg-type]  # as above
        cause=Cause.GRANT,
        write_id="promotion",
    )
    await lab.write(promotion)
    lab.account = account
    lab.clock.now_ms = refills[0].cycle.end_ms
    await lab.engine.sweep()
    assert await told(lab) == []
    await spend(lab, "h1", 100)
    assert await told(lab) == [(50, 0), (10, 0), (0, 0)]


async def test_marks_are_those_of_the_plan_that_the_hold_was_made_on(tenant: Tenants) -> None:
    by_plan = PlanValues(by_plan={"free": 10, "pro": 50})
    lab = tenant(policy(replace(balance("credits"), thresholds=(by_plan,))))
    await lab.open(credits=100)
    await lab.grant("h1", credits=60)
    lab.account = Account("pro", version=lab.account.version + 1)
    await lab.write(AccountWrite(account=lab.account, expected_version=lab.account.version - 1))
    await lab.settle("h1")
    assert await told(lab) == []
    await lab.write(AccountWrite(grants={CELL: 20}, write_id="p1"))
    await spend(lab, "h2", 15)
    assert await told(lab) == [(50, 45)]


async def test_a_raise_keeps_the_marks(tenant: Tenants) -> None:
    for rules in (PURSE, APART):
        lab = tenant(rules)
        lab.ref = lab.ref._replace(tenant=f"t{rules is APART}")
        await lab.open(credits=60)
        await lab.grant("h1", credits=5)
        await lab.raise_to("h1", credits=12)
        await lab.settle("h1")
        assert await told(lab) == [(50, 48)]
