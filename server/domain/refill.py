"""Refills: what a balance is topped up to when a cycle begins."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from server.domain.account import Account
from server.domain.cycle import Cycle
from server.domain.limits.balance import Balance
from server.domain.operation import TenantRef
from server.domain.policy import Policy


class Refill(NamedTuple):
    """A refill of the balance of `cell` to `ceiling`, once for `plan` in `cycle`."""

    cell: str
    ledgered: bool
    plan: str
    ceiling: int
    cycle: Cycle


RefillTerms: TypeAlias = Callable[[TenantRef, Account, int], Sequence[Refill]]
"""The refills of a tenant with this account at this instant; HoldgateError where its policy is not known."""


def refills_of(policy: Policy, account: Account, at_ms: int) -> tuple[Refill, ...]:
    """The refills of an account in the cycles that `at_ms` falls into. An unknown plan has a ceiling of 0."""
    return tuple(
        Refill(
            cell=limit.cell,
            ledgered=limit.ledger,
            plan=account.plan,
            ceiling=(limit.refill.to.of(account.plan) or 0) if account.plan in policy.plans else 0,
            cycle=limit.refill.months(account.created_at_ms).cycle_of(at_ms),
        )
        for limit in policy.limits
        if isinstance(limit, Balance) and limit.refill is not None
    )


def no_refills(_ref: TenantRef, _account: Account, _at_ms: int) -> Sequence[Refill]:
    """No policy refills anything."""
    return ()
