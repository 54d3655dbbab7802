"""What time does to balances: what they are topped up to when a cycle begins, and of which falls it is told."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from server.domain.account import Account
from server.domain.cycle import Cycle
from server.domain.limits.balance import Balance, Marks
from server.domain.operation import TenantRef
from server.domain.policy import Policy


class Refill(NamedTuple):
    """A refill of the balance of `cell` to `ceiling`, once for `plan` in `cycle`."""

    cell: str
    ledgered: bool
    plan: str
    ceiling: int
    cycle: Cycle


class BalanceTerms(NamedTuple):
    """What the policy says of an account's balances at an instant; `marks` by cell, of those that have some."""

    refills: Sequence[Refill] = ()
    marks: Mapping[str, Marks] = MappingProxyType({})


RefillTerms: TypeAlias = Callable[[TenantRef, Account, int], BalanceTerms]
"""The terms of a tenant with this account at this instant; HoldgateError where its policy is not known."""


def balance_terms(policy: Policy, account: Account, at_ms: int) -> BalanceTerms:
    """The terms of an account at `at_ms`."""
    return BalanceTerms(refills_of(policy, account, at_ms), marks_of(policy, account, at_ms))


def marks_of(policy: Policy, account: Account, at_ms: int) -> Mapping[str, Marks]:
    """The thresholds of an account's balances at `at_ms`, by cell, of those that have some."""
    plan = account.plan or (policy.tiers.of(account, at_ms).plan if policy.tiers is not None else "")
    balances = (limit for limit in policy.limits if isinstance(limit, Balance))
    return {limit.cell: marks for limit in balances if (marks := limit.marks(plan))}


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


def no_refills(_ref: TenantRef, _account: Account, _at_ms: int) -> BalanceTerms:
    """No policy refills anything, or wants to be told."""
    return BalanceTerms()
