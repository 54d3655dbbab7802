"""One tenant of an engine under test: plans its requests, speaks to the engine, and moves the clock."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from server.domain.account import Account, Override
from server.domain.allowances import QuotaLooks, no_looks, quota_looks
from server.domain.hold import Delivered, HoldView
from server.domain.limits.base import Look
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan, usage_plan
from server.domain.policy import Policy
from server.domain.queue import QueueTerms, no_queues, queue_terms
from server.domain.refill import BalanceTerms, balance_terms
from server.engine.base import (
    AccountWrite,
    Conflict,
    Engine,
    Extended,
    Found,
    Granted,
    HoldOutcome,
    Looked,
    Overtaken,
    Queued,
    Refused,
    Replayed,
    Stale,
    Written,
)

START_MS: Final = 1_773_144_000_000
WITHIN_S: Final = 60.0
"""How long a call may take: a busy machine is no reason for a test to fail."""
EVERYWHERE: Final = {"project": "p 1", "model": "m{1}:/%"}
"""A value for each dimension, with the characters that a key must quote."""


@dataclass
class Clock:
    """What an engine under test takes for the time; stands still until moved."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, by_ms: int) -> None:
        self.now_ms += by_ms


@dataclass
class Refills:
    """What an engine under test takes for the balances and queues of its one policy."""

    policy: Policy | None = None

    def __call__(self, _ref: TenantRef, account: Account, at_ms: int) -> BalanceTerms:
        return balance_terms(self.policy, account, at_ms) if self.policy is not None else BalanceTerms()

    def looks(
        self, ref: TenantRef, account: Account | None, now_ms: int, cells: Iterable[tuple[str, tuple[str, ...]]]
    ) -> QuotaLooks:
        """Which quotas to look at for thresholds."""
        if self.policy is None:
            return no_looks(ref, account, now_ms, cells)
        return quota_looks(self.policy, ref, account, now_ms, cells)

    def queues(self, ref: TenantRef, account: Account | None, now_ms: int) -> QueueTerms:
        """The pools with queues."""
        if self.policy is None:
            return no_queues(ref, account, now_ms)
        return queue_terms(self.policy, ref, account, now_ms)


@dataclass
class Tenant:
    """A tenant as it is known to the server: its account as last read, which may be out of date."""

    engine: Engine
    clock: Clock
    policy: Policy
    ref: TenantRef = field(default_factory=lambda: TenantRef("lab", "acme & co"))
    account: Account = field(default_factory=lambda: Account(plan="free"))

    async def open(self, *, plan: str = "free", overrides: tuple[Override, ...] = (), **grants: int) -> None:
        """Writes the account, or its next version, and grants units by the id of a balance limit."""
        account = Account(plan=plan, overrides=overrides, version=self.account.version + 1)
        cells = {limit.id: limit.cell for limit in self.policy.limits}
        write = AccountWrite(
            account=account,
            expected_version=self.account.version,
            grants={cells[limit_id]: units for limit_id, units in grants.items()},
        )
        assert await self.engine.write_account(self.ref, write, WITHIN_S) == Written(
            account, applied=True, changed=write.grants
        )
        self.account = account

    async def top_up(self, write_id: str, **grants: int) -> Written | Conflict:
        """Grants units by the id of a balance limit, once for each id of a write."""
        cells = {limit.id: limit.cell for limit in self.policy.limits}
        by_cell = {cells[limit_id]: units for limit_id, units in grants.items()}
        return await self.write(AccountWrite(grants=by_cell, write_id=write_id, fingerprint=repr(grants).encode()))

    async def write(self, write: AccountWrite) -> Written | Conflict:
        return await self.engine.write_account(self.ref, write, WITHIN_S)

    def plan(
        self,
        hold_id: str = "",
        *,
        action: str = "work",
        scope: Mapping[str, str] = EVERYWHERE,
        **amounts: int,
    ) -> Plan:
        operation = Operation(ref=self.ref, action=action, request_id=hold_id, scope=dict(scope), amounts=amounts)
        return make_plan(self.policy, operation, self.account, self.clock())

    async def reserve(self, plan: Plan) -> Granted | Refused | Replayed | Stale:
        answer = await self.engine.reserve(plan, plan.operation.request_id, WITHIN_S)
        assert not isinstance(answer, Queued)
        return answer

    async def grant(
        self, hold_id: str = "", *, action: str = "work", scope: Mapping[str, str] = EVERYWHERE, **amounts: int
    ) -> Granted:
        """Reserves, which must succeed."""
        answer = await self.reserve(self.plan(hold_id, action=action, scope=scope, **amounts))
        assert isinstance(answer, Granted), answer
        return answer

    async def refusal(
        self, hold_id: str = "", *, action: str = "work", scope: Mapping[str, str] = EVERYWHERE, **amounts: int
    ) -> dict[str, Look]:
        """Asks, which must be refused; the figures by limit."""
        plan = self.plan(hold_id, action=action, scope=scope, **amounts)
        answer = await self.reserve(plan)
        assert isinstance(answer, Refused), answer
        return by_limit(plan, answer.looks)

    async def figures(self, scope: Mapping[str, str] = EVERYWHERE) -> dict[str, Look]:
        """Where every limit with state stands."""
        operation = Operation(ref=self.ref, action="", scope=scope)
        return await self.look(usage_plan(self.policy, operation, self.account, self.clock()))

    async def look(self, plan: Plan) -> dict[str, Look]:
        """The plan's figures by limit, taking nothing."""
        answer = await self.engine.look(plan, WITHIN_S)
        assert isinstance(answer, Looked), answer
        return by_limit(plan, answer.looks)

    async def settle(self, hold_id: str, delivered: Delivered = None) -> HoldOutcome:
        return await self.engine.settle(self.ref, hold_id, delivered, final=True, within_s=WITHIN_S)

    async def report(self, hold_id: str, delivered: Delivered = None) -> HoldOutcome:
        return await self.engine.settle(self.ref, hold_id, delivered, final=False, within_s=WITHIN_S)

    async def release(self, hold_id: str) -> HoldOutcome:
        return await self.engine.release(self.ref, hold_id, WITHIN_S)

    async def renew(self, hold_id: str, **used: int) -> Extended:
        """Extends the lease, with a report if one is given."""
        answer = await self.engine.extend(self.ref, hold_id, used, None, WITHIN_S)
        assert isinstance(answer, Extended), answer
        return answer

    async def extend(self, hold_id: str, raised: Plan, used: Mapping[str, int] | None = None) -> Extended | Stale:
        answer = await self.engine.extend(self.ref, hold_id, used or {}, raised, WITHIN_S)
        assert not isinstance(answer, Overtaken)
        return answer

    async def raise_to(self, hold_id: str, **amounts: int) -> Extended:
        """Extends the lease and raises the amounts, which may not fit."""
        answer = await self.extend(hold_id, self.plan("", action="work", scope=EVERYWHERE, **amounts))
        assert isinstance(answer, Extended), answer
        return answer

    async def find(self, hold_id: str) -> Found:
        return await self.engine.find(self.ref, hold_id, WITHIN_S)

    async def hold(self, hold_id: str) -> HoldView:
        """The hold, which must exist, as stored."""
        hold = (await self.find(hold_id)).hold
        assert hold is not None, hold_id
        return hold


def by_limit(plan: Plan, looks: tuple[Look, ...]) -> dict[str, Look]:
    """Looks by the id of their limit."""
    return {check.limit.id: look for check, look in zip(plan.checks, looks, strict=True)}
