"""Refills of balances, on every engine."""

from collections.abc import Callable

from server.domain.account import Account
from server.domain.policy import Policy
from server.domain.refill import refills_of
from server.engine.base import AccountWrite
from tests.policies_for_tests import HOUR_MS, balance, policy
from tests.tenants import Tenant

MakeTenant = Callable[[Policy], Tenant]


async def test_a_balance_into_which_nothing_has_come_is_refilled_all_the_same(tenant: MakeTenant) -> None:
    """An account without an opening: its first units come with its second cycle."""
    lab = tenant(policy(balance("purse", refill=30)))
    account = Account(plan="free", version=1)
    begun = AccountWrite(account=account, refills=refills_of(lab.policy, account, lab.clock()))
    await lab.write(begun)
    lab.account = account

    lab.clock.advance(31 * 24 * HOUR_MS)

    assert (await lab.figures())["purse"].cap == 30
