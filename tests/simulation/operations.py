"""What callers do in the simulation: one class per operation, drawn by a seed, asked of any engine.

A new operation is a class here and a line in `OPERATIONS`: `draw` makes one of random numbers alone (what it finds when
it is played is not known yet), `question` turns it into a call of an engine with what is known by then, `script` names
the one script that must run once and no more for it.
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from server.domain.account import Account, Override
from server.domain.act import Act, Deed
from server.domain.allowances import next_change_ms
from server.domain.hold import Delivered, Fraction
from server.domain.ledger import Cause
from server.domain.limits import Balance, Limit
from server.domain.limits.balance import GrantSource
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, usage_plan
from server.domain.queue import Ticket
from server.domain.refill import marks_of, refills_of
from server.domain.units import FOREVER_MS
from server.engine.base import AccountWrite, Engine
from tests.policies_for_tests import HOUR_MS, MINUTE_MS
from tests.simulation.asked import MOST_READ, MOST_UNITS, SCOPES, Ask, Asked, Drawn, Facts, Named
from tests.simulation.by_hand import AdjustByHand, DeleteTenant, ReadTrail, ResetByHand
from tests.simulation.lines import Leave, Renew, SeeTo, TakeTurn
from tests.simulation.samples import RecordUse
from tests.tenants import WITHIN_S


@dataclass(frozen=True)
class Reserve(Asked):
    hold_id: str
    scope: int
    amounts: Mapping[str, int]
    named: bool
    behind: int
    action: str
    ticket: Ticket
    script = "reserve"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        amounts, scope = drawn.amounts(), random.randrange(3)
        meters = [meter for meter in amounts if meter != "requests"]
        if random.random() < 0.85:
            action = random.choice(("work", "work", "work", "rest"))
            hold = Named(drawn.tenant(), f"h{len(drawn.holds)}", meters, scope, action, amounts, drawn.ticket())
            drawn.holds.append(hold)
        else:
            hold = drawn.some_hold()
        named, behind = random.random() < 0.9, int(random.random() < 0.1)
        return cls(hold.tenant, hold.hold_id, scope, amounts, named, behind, hold.action, hold.ticket)

    def question(self, facts: Facts) -> Ask:
        plan = self.plan(facts, self.scope, self.amounts, self.behind, action=self.action, hold_id=self.hold_id)
        hold_id = self.hold_id if self.named or plan.leaves_hold else ""
        ticket = None if plan.shape.queue is None else self.ticket
        return Question(lambda engine: engine.reserve(plan, hold_id, WITHIN_S, ticket), plan)


@dataclass(frozen=True)
class Question:
    """An ask that remembers its plan."""

    ask: Ask
    plan: Plan

    def __call__(self, engine: Engine) -> Awaitable[Any]:
        return self.ask(engine)


@dataclass(frozen=True)
class Settle(Asked):
    hold_id: str
    delivered: Delivered
    final: bool
    allocation: str
    script = "settle"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random, hold = drawn.random, drawn.some_hold()
        delivered: Delivered = None
        form = random.random()
        if form < 0.5:
            delivered = drawn.amounts(hold.meters, 2 * MOST_UNITS)
        elif form < 0.8:
            parts = random.randint(1, 9)
            delivered = Fraction(random.randint(0, parts), parts)
        allocation = drawn.allocation() if random.random() < 0.2 else ""
        return cls(hold.tenant, hold.hold_id, delivered, random.random() < 0.6, allocation)

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.settle(
            self.ref, self.hold_id, self.delivered, final=self.final, within_s=WITHIN_S, allocation=self.allocation
        )


@dataclass(frozen=True)
class Release(Asked):
    """By the caller or, sometimes, by hand."""

    hold_id: str
    by_hand: bool
    script = "release"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        hold = drawn.some_hold()
        return cls(hold.tenant, hold.hold_id, drawn.random.random() < 0.3)

    def question(self, facts: Facts) -> Ask:
        act = Act(Deed.RELEASE, "ops", "drawn", self.hold_id) if self.by_hand else None
        return lambda engine: engine.release(self.ref, self.hold_id, WITHIN_S, act)


@dataclass(frozen=True)
class GiveBack(Asked):
    """A standing allocation is gone; mostly one that bears its hold's id."""

    allocation: str
    script = "deallocate"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        hold = drawn.some_hold()
        return cls(hold.tenant, hold.hold_id if drawn.random.random() < 0.7 else drawn.allocation())

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.books.release_allocation(self.ref, self.allocation, "", WITHIN_S)


@dataclass(frozen=True)
class Extend(Asked):
    """A renewal, mostly with a report, and sometimes with a raise."""

    hold_id: str
    used: Mapping[str, int]
    raised: Mapping[str, int] | None
    scope: int
    behind: int
    action: str
    script = "extend"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random, hold = drawn.random, drawn.some_hold()
        used = drawn.amounts(hold.meters, 2 * MOST_UNITS) if random.random() < 0.6 else {}
        raised = drawn.amounts(hold.meters, 2 * MOST_UNITS) if random.random() < 0.5 else None
        behind = int(random.random() < 0.1)
        return cls(hold.tenant, hold.hold_id, used, raised, hold.scope, behind, hold.action)

    def question(self, facts: Facts) -> Ask:
        plan = None
        if self.raised is not None:
            plan = self.plan(facts, self.scope, self.raised, self.behind, action=self.action)
        return lambda engine: engine.extend(self.ref, self.hold_id, self.used, plan, WITHIN_S)


@dataclass(frozen=True)
class Look(Asked):
    scope: int
    amounts: Mapping[str, int]
    script = "usage"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant(), drawn.random.randrange(3), drawn.amounts())

    def question(self, facts: Facts) -> Ask:
        plan = self.plan(facts, self.scope, self.amounts, 0)
        return lambda engine: engine.look(plan, WITHIN_S)


@dataclass(frozen=True)
class Usage(Asked):
    """All figures of a scope, with the cycles of its quotas."""

    scope: int
    script = "usage"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant(), drawn.random.randrange(3))

    def question(self, facts: Facts) -> Ask:
        operation = Operation(ref=self.ref, action="", scope=SCOPES[self.scope])
        plan = usage_plan(facts.policy, operation, facts.account(self.tenant, 0), facts.now_ms())
        return lambda engine: engine.cycles(plan, WITHIN_S)


@dataclass(frozen=True)
class PutAccount(Asked):
    """The next version of an account, with or without units for its balances."""

    plan_name: str
    units: Mapping[int, int]
    override: tuple[int, int, int] | None
    behind: int
    raises: bool
    script = "account"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        override = None
        if random.random() < 0.3:
            override = random.randrange(5), random.randint(0, 20), random.choice([1, 1000, MINUTE_MS, 10**10])
        units = {random.randrange(3): random.randint(0, 40)} if random.random() < 0.5 else {}
        behind = int(random.random() < 0.1)
        return cls(drawn.tenant(), random.choice(("free", "pro")), units, override, behind, random.random() < 0.3)

    def question(self, facts: Facts) -> Ask:
        known = facts.account(self.tenant, self.behind)
        overrides: tuple[Override, ...] = ()
        limits = facts.policy.limits
        if self.override is not None and self.override[0] < len(limits):
            place, value, lasts_ms = self.override
            overrides = (Override(limits[place].id, value, facts.now_ms() + lasts_ms),)
        account = Account(
            self.plan_name, created_at_ms=known.created_at_ms, overrides=overrides, version=known.version + 1
        )
        write = AccountWrite(
            account=account,
            expected_version=known.version,
            grants=by_cell(limits, self.units),
            balances=balances_in(limits),
            refills=refills_of(facts.policy, account, facts.now_ms()),
            raises=self.raises,
            limits_ms=next_change_ms(facts.policy, account, facts.now_ms()),
            act=Act(Deed.ACCOUNT, "ops", "drawn", before="{}", after=self.plan_name),
        )
        return Writing(self.ref, write)


@dataclass(frozen=True)
class MoveMoney(Asked):
    """A promotion that expires, a purchase, or a refund, by the id of a write."""

    write_id: str
    units: Mapping[int, int]
    cause: Cause
    lives_ms: int
    script = "account"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        cause = random.choice((Cause.GRANT, Cause.PURCHASE, Cause.REFUND))
        sign = -1 if cause is Cause.REFUND else 1
        lives_ms = random.choice([1, MINUTE_MS, HOUR_MS, 40 * 24 * HOUR_MS])
        units = {random.randrange(3): sign * random.randint(1, 30)}
        return cls(drawn.tenant(), drawn.write_id(cause.name), units, cause, lives_ms)

    def question(self, facts: Facts) -> Ask:
        limits = facts.policy.limits
        grants = by_cell(limits, self.units)
        promotional = self.cause is Cause.GRANT
        write = AccountWrite(
            grants=grants,
            source=GrantSource.PROMOTIONAL if promotional else GrantSource.BOUGHT,
            expires_at_ms=facts.now_ms() + self.lives_ms if promotional else FOREVER_MS,
            balances=balances_in(limits),
            marks=marks_of(facts.policy, Account("free"), 0),
            cause=self.cause,
            write_id=self.write_id,
            fingerprint=repr((sorted(grants.items()), self.lives_ms)).encode(),
        )
        return Writing(self.ref, write)


@dataclass(frozen=True)
class Writing:
    """An ask that remembers what it writes."""

    ref: TenantRef
    write: AccountWrite

    def __call__(self, engine: Engine) -> Awaitable[Any]:
        return engine.write_account(self.ref, self.write, WITHIN_S)


@dataclass(frozen=True)
class Audit(Asked):
    """All balances of the policy, with what stands behind them."""

    script = "audit"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant())

    def question(self, facts: Facts) -> Ask:
        cells = sorted(balances_in(facts.policy.limits))
        return lambda engine: engine.audit(self.ref, cells, WITHIN_S)

    def told(self, answer: Any) -> Any:  # noqa: ANN401  # as above
        """Without the cells as they are stored."""
        balances = {cell: state._replace(cell=b"") for cell, state in answer.balances.items()}
        return answer._replace(balances=balances)


@dataclass(frozen=True)
class Trim(Asked):
    through: int
    script = "trim"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant(), drawn.random.randint(1, 30))

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.trim_ledger(self.ref, self.through, WITHIN_S)


@dataclass(frozen=True)
class ListHolds(Asked):
    count: int

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant(), drawn.random.randint(1, 3))

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.open_holds(self.ref, (0, ""), self.count, WITHIN_S)


@dataclass(frozen=True)
class Find(Asked):
    hold_id: str
    script = "find"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        hold = drawn.some_hold()
        return cls(hold.tenant, hold.hold_id)

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.find(self.ref, self.hold_id, WITHIN_S)


@dataclass(frozen=True)
class ReadLedger(Asked):
    """Everything in the ledger, and the notes."""

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant())

    def question(self, facts: Facts) -> Ask:
        async def read(engine: Engine) -> Any:  # noqa: ANN401  # both lists
            notes = await engine.notes(self.ref, "", MOST_READ, WITHIN_S)
            return await engine.ledger(self.ref, 0, MOST_READ, WITHIN_S), notes

        return read

    def told(self, answer: Any) -> Any:  # noqa: ANN401  # as above
        """Without the ids and the order of notes, and the instant at which an overdue hold was found."""
        ledger, notes = answer
        return [entry._replace(at_ms=0) for entry in ledger], sorted(
            note._replace(note_id="", at_ms=0) for note in notes
        )


@dataclass(frozen=True)
class Sweep(Asked):
    """Of all tenants."""

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls("")

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.sweep()


OPERATIONS: Final[Mapping[type[Asked], int]] = {
    Reserve: 40,
    Settle: 20,
    Release: 7,
    GiveBack: 4,
    Extend: 12,
    Look: 3,
    Usage: 2,
    PutAccount: 4,
    MoveMoney: 6,
    Audit: 1,
    Trim: 1,
    ResetByHand: 2,
    AdjustByHand: 3,
    DeleteTenant: 1,
    ReadTrail: 1,
    ListHolds: 1,
    Find: 1,
    Sweep: 2,
    TakeTurn: 10,
    Leave: 2,
    Renew: 3,
    SeeTo: 1,
    RecordUse: 4,
}
"""Every operation, and how often it is drawn among a hundred or so."""


def balances_in(limits: Sequence[Limit]) -> dict[str, Balance]:
    return {limit.cell: limit for limit in limits if isinstance(limit, Balance)}


def by_cell(limits: Sequence[Limit], units: Mapping[int, int]) -> dict[str, int]:
    """Units by the cells of a policy's balances, counted through."""
    cells = sorted(balances_in(limits))
    return {cells[place % len(cells)]: amount for place, amount in units.items()} if cells else {}
