"""Bugs of peers in admitting, that no other test has under its name (`rows.yaml`)."""

from collections.abc import Callable

from server.domain.policy import Policy
from tests.policies_for_tests import TERMS, balance, policy, slots, window
from tests.tenants import Tenant

MakeTenant = Callable[[Policy], Tenant]


async def test_rich_balance_still_holds(tenant: MakeTenant) -> None:
    """However rich an account is, a grant leaves its hold: nothing is let through unbooked."""
    lab = tenant(policy(window("rpm", 5), balance("credits")))
    await lab.open(credits=10**15)

    await lab.grant("h", credits=3)

    assert (await lab.hold("h")).meters["credits"].reserved == 3
    assert (await lab.figures())["credits"].held == 3
    assert (await lab.figures())["rpm"].used == 1


async def test_abandon_loop_bounded(tenant: MakeTenant) -> None:
    """Who reserves and walks away again and again holds no more than the limit, and all comes back with the leases."""
    lab = tenant(policy(slots("jobs", 4), balance("credits")))
    await lab.open(credits=100)
    for number in range(60):
        answer = await lab.reserve(lab.plan(f"h{number}", credits=10))
        figures = await lab.figures()
        assert figures["jobs"].used <= 4, answer
        assert figures["credits"].held <= 40
        lab.clock.advance(TERMS.lease_ms // 50)

    lab.clock.advance(TERMS.lease_ms)
    figures = await lab.figures()
    assert (figures["jobs"].used, figures["credits"].held, figures["credits"].cap) == (0, 0, 100)
