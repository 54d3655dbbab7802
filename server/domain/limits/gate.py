"""`gate`: a condition on the account. It keeps no state; the account's version is checked in the script."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from server.domain.account import Account
from server.domain.limits.base import Kind, Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate(Limit):
    """Passes when the account's `flag` is `expect`, when its plan is one of `plans`, or when the plan allows the value
    of dimension `of`.

    `allow` maps each plan to the values that it allows, in rising order. A request that does not name the
    dimension asks for nothing special and passes.
    """

    kind: ClassVar[Kind] = Kind.GATE

    flag: str = ""
    expect: bool = True
    of: str = ""
    allow: Mapping[str, tuple[str, ...]] | None = None
    plans: tuple[str, ...] = ()

    def passes(self, account: Account, scope: Mapping[str, str]) -> bool:
        """Whether this account may do what the request asks for."""
        if self.flag:
            return account.flags.get(self.flag, False) is self.expect
        if self.plans:
            return account.plan in self.plans
        return self.of not in scope or scope[self.of] in self.allowed(account)

    def allowed(self, account: Account) -> tuple[str, ...]:
        """The values that the account's plan allows; empty for a gate on a flag."""
        return self.allow[account.plan] if self.allow is not None else ()
