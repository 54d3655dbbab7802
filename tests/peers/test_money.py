"""Bugs of peers in money, that no other test has under its name (`rows.yaml`)."""

import asyncio
from collections.abc import Callable
from typing import Final

from server.domain.account import Account
from server.domain.hold import MeterTotals, State
from server.domain.ledger import Cause
from server.domain.limits import Balance
from server.domain.limits.balance import GrantSource
from server.domain.policy import Policy
from server.domain.refill import refills_of
from server.domain.units import FOREVER_MS
from server.engine.base import AccountWrite, Written
from tests.policies_for_tests import HOUR_MS, TERMS, balance, policy, quota
from tests.tenants import WITHIN_S, Tenant

MakeTenant = Callable[[Policy], Tenant]

PURSE: Final = policy(balance("purse", burn="312", ledger=True))
"""Promotional units first, then monthly ones, then bought ones."""
CELL: Final = PURSE.limits[0].cell
BALANCES: Final = {limit.cell: limit for limit in PURSE.limits if isinstance(limit, Balance)}


async def add(lab: Tenant, write_id: str, units: int, source: GrantSource, expires_at_ms: int = FOREVER_MS) -> Written:
    """Adds units of a source, or takes some back."""
    written = await lab.write(
        AccountWrite(
            grants={CELL: units},
            source=source,
            expires_at_ms=expires_at_ms,
            balances=BALANCES,
            cause=Cause.REFUND if units < 0 else Cause.GRANT,
            write_id=write_id,
            fingerprint=repr(units).encode(),
        )
    )
    assert isinstance(written, Written)
    return written


async def left_of(lab: Tenant) -> dict[int, int]:
    """What is left of each source that is kept apart."""
    audit = await lab.engine.audit(lab.ref, [CELL], WITHIN_S)
    return {int(grant.source): grant.left for grant in audit.balances[CELL].grants}


async def test_refund_floors_at_zero(tenant: MakeTenant) -> None:
    """More is taken back than there is: what there is, and no balance is below nothing."""
    lab = tenant(PURSE)
    await lab.open()
    await add(lab, "p1", 10, GrantSource.BOUGHT)

    written = await add(lab, "r1", -25, GrantSource.BOUGHT)

    assert written.changed == {CELL: 10}
    assert (await lab.figures())["purse"].cap == 0


async def test_same_refund_once(tenant: MakeTenant) -> None:
    """Equal refunds at once, by one id: one is made."""
    lab = tenant(PURSE)
    await lab.open()
    await add(lab, "p1", 100, GrantSource.BOUGHT)

    written = await asyncio.gather(*(add(lab, "r1", -30, GrantSource.BOUGHT) for _ in range(10)))

    assert sum(one.applied for one in written) == 1
    assert (await lab.figures())["purse"].cap == 70


async def test_grant_expiry_judged_at_use(tenant: MakeTenant) -> None:
    """A grant that ends within the period can be spent up to its instant, and not at it."""
    lab = tenant(PURSE)
    await lab.open()
    await add(lab, "g1", 10, GrantSource.PROMOTIONAL, lab.clock() + HOUR_MS)
    lab.clock.advance(HOUR_MS - 1)
    await lab.grant("in time", credits=4)
    await lab.settle("in time", {"credits": 4})
    lab.clock.advance(1)

    assert (await lab.refusal("late", credits=1))["purse"].cap == 0


async def test_refund_to_source_grant(tenant: MakeTenant) -> None:
    """A hold that drew on several grants gives back what it does not use to those that it drew on last."""
    lab = tenant(PURSE)
    await lab.open()
    promotional, bought = GrantSource.PROMOTIONAL, GrantSource.BOUGHT
    await add(lab, "g1", 10, promotional, lab.clock() + HOUR_MS)
    await add(lab, "p1", 10, bought)
    await lab.grant("h", credits=15)
    assert await left_of(lab) == {promotional: 0, bought: 5}

    await lab.settle("h", {"credits": 7})

    assert await left_of(lab) == {promotional: 3, bought: 10}


async def test_expiry_is_a_ledger_entry(tenant: MakeTenant) -> None:
    """A lease ends of which a part was reported, and with it a grant that is over: both are in the ledger, under the
    hold's id, and the hold is found as what it is.
    """
    lab = tenant(PURSE)
    await lab.open()
    await add(lab, "g1", 10, GrantSource.PROMOTIONAL, lab.clock() + 1)
    await lab.grant("h", credits=10)
    await lab.report("h", {"credits": 4})

    lab.clock.advance(TERMS.lease_ms)
    await lab.engine.sweep()

    entries = await lab.engine.ledger(lab.ref, 0, 100, WITHIN_S)
    assert [(entry.cause, entry.reference, entry.units) for entry in entries] == [
        (Cause.GRANT, "g1", 10),
        (Cause.REPORT, "h", -4),
        (Cause.LEASE_END, "h", -6),
    ]
    assert entries[-1].after.expired == 6
    assert (await lab.hold("h")).state is State.EXPIRED


async def test_bucket_replaced_mid_hold(tenant: MakeTenant) -> None:
    """The plan changes under a hold: its remainder goes back to the one balance, which the change topped up with the
    hold's units counted in, and its use to the quota of the cycle, against the new limit.
    """
    rules = policy(
        balance("purse", burn="312", refill={"free": 10, "pro": 30}), quota("frames", {"free": 10, "pro": 30})
    )
    lab = tenant(rules)
    balances = {limit.cell: limit for limit in rules.limits if isinstance(limit, Balance)}
    for version, plan in enumerate(("free", "pro"), 1):
        account = Account(plan, created_at_ms=lab.clock(), version=version)
        refills = refills_of(rules, account, lab.clock())
        write = AccountWrite(
            account=account,
            expected_version=version - 1,
            grants={CELL: 10} if plan == "free" else {},
            balances=balances,
            refills=refills,
            raises=plan == "pro",
        )
        assert isinstance(await lab.write(write), Written)
        lab.account = account
        if plan == "free":
            await lab.grant("h", credits=8, frames=8)

    figures = await lab.figures()
    assert [(look.cap, look.used, look.held) for look in figures.values()] == [(30, 8, 8), (30, 8, 8)]
    await lab.settle("h", {"credits": 3, "frames": 3})

    figures = await lab.figures()
    assert [(look.cap, look.used, look.held) for look in figures.values()] == [(27, 0, 0), (30, 3, 0)]


async def test_final_unit_and_wakeup(tenant: MakeTenant) -> None:
    """Funds end in the middle of a stream: no more can be held, what is delivered all the same is told to be
    uncollected, and the next call is refused. The next call after a top-up is admitted.
    """
    lab = tenant(policy(balance("credits")))
    await lab.open(credits=10)
    await lab.grant("stream", credits=10)
    assert not (await lab.raise_to("stream", credits=11)).raised

    ended = await lab.settle("stream", {"credits": 12})

    assert ended.meters == {"credits": MeterTotals(10, 12, 2)}
    assert (await lab.refusal("next", credits=1))["credits"].wait_ms == -1
    await lab.top_up("p1", credits=5)
    await lab.grant("next", credits=5)


async def test_one_topup_per_crossing(tenant: MakeTenant) -> None:
    """Whoever tops up when told has one reason to for each fall: a balance that stays low or in debt, through settles,
    sweeps and top-ups that do not lift it above the threshold, is told of once.
    """
    lab = tenant(policy(balance("credits", debt=1000, thresholds=(5,))))
    await lab.open(credits=20)
    holds = [f"paid{number}" for number in range(10)]
    for hold_id in holds:
        await lab.grant(hold_id, credits=2)
    for hold_id in holds:
        await lab.settle(hold_id, {"credits": 9})
        await lab.engine.sweep()
    await lab.top_up("too little", credits=70)

    async def told() -> list[tuple[int | None, int]]:
        return [(note.mark, note.left) for note in await lab.engine.notes(lab.ref, "", 100, WITHIN_S)]

    assert await told() == [(5, 4)]
    await lab.top_up("enough", credits=20)
    await lab.grant("again", credits=20)
    await lab.settle("again")
    assert await told() == [(5, 4), (5, 0)]


async def test_threshold_with_negative_balance(tenant: MakeTenant) -> None:
    """An account in debt has nothing left, never less; what comes in pays back first, and what then is left, not what
    came in, is above the threshold or below it.
    """
    lab = tenant(policy(balance("credits", debt=40, thresholds=(30, 0))))
    await lab.open(credits=50)
    await lab.grant("h", credits=20)
    await lab.settle("h", {"credits": 80})

    async def told() -> list[tuple[int | None, int]]:
        return [(note.mark, note.left) for note in await lab.engine.notes(lab.ref, "", 100, WITHIN_S)]

    assert await told() == [(30, 0), (0, 0)]
    await lab.top_up("p1", credits=60)  # 30 of them pay back
    await lab.grant("low", credits=10)
    await lab.settle("low")
    assert await told() == [(30, 0), (0, 0)]
    await lab.top_up("p2", credits=11)
    await lab.grant("low again", credits=1)
    await lab.settle("low again")
    assert await told() == [(30, 0), (0, 0), (30, 30)]
