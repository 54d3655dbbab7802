"""Bugs of peers in money, that no other test has under its name (`rows.yaml`)."""

import asyncio
from collections.abc import Callable
from typing import Final

from server.domain.ledger import Cause
from server.domain.limits import Balance
from server.domain.limits.balance import GrantSource
from server.domain.policy import Policy
from server.domain.units import FOREVER_MS
from server.engine.base import AccountWrite, Written
from tests.policies_for_tests import HOUR_MS, balance, policy
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
