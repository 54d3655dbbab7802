"""Bugs of peers in holds and pools, that no other test has under its name (`rows.yaml`)."""

from collections.abc import Callable

import pytest

from server.domain.errors import HoldNotFoundError
from server.domain.hold import State
from server.domain.policy import Policy
from server.engine.base import Granted
from tests.policies_for_tests import TERMS, balance, policy, slots
from tests.tenants import Tenant

MakeTenant = Callable[[Policy], Tenant]


async def test_missed_release_heals_under_traffic(tenant: MakeTenant) -> None:
    """One release is lost while others come and go all the time: the place is free when its lease ends, not later."""
    lab = tenant(policy(slots("jobs", 2)))
    await lab.grant("lost")
    lost_at_ms, healed_at_ms = lab.clock(), 0
    number = 0
    while not healed_at_ms:
        number += 1
        first, second = f"a{number}", f"b{number}"
        await lab.grant(first)
        if isinstance(await lab.reserve(lab.plan(second)), Granted):
            healed_at_ms = lab.clock()
            await lab.release(second)
        await lab.release(first)
        lab.clock.advance(1000)
    assert healed_at_ms - lost_at_ms == TERMS.lease_ms
    assert (await lab.hold("lost")).state is State.EXPIRED


async def test_settle_of_refused(tenant: MakeTenant) -> None:
    """What was refused has no hold: a settle of it finds nothing and moves nothing."""
    lab = tenant(policy(balance("credits")))
    await lab.open(credits=5)
    await lab.refusal("h", credits=6)
    before = await lab.figures()

    with pytest.raises(HoldNotFoundError):
        await lab.settle("h", {"credits": 6})
    with pytest.raises(HoldNotFoundError):
        await lab.release("h")

    assert await lab.figures() == before
