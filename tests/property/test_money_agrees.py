"""Money on both engines: grants, refills, holds of every outcome, lapses, month ends. After every step the figures and
the ledgers are equal, the ledger tells every change, and what came in is what is there or went out, to the unit.

`HYPOTHESIS_PROFILE=deep` looks longer.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from server.domain.account import Account
from server.domain.hold import Fraction
from server.domain.ledger import Cause, LedgerEntry
from server.domain.limits.balance import Balance, GrantSource
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan, usage_plan
from server.domain.policy import Policy
from server.domain.refill import marks_of, refills_of
from server.domain.units import FOREVER_MS
from server.engine import keys
from server.engine.base import AccountWrite, Engine, Granted, HoldOutcome, Written
from server.engine.client import StoreConnection
from server.engine.memory_engine import MemoryEngine
from server.engine.redis_engine import RedisEngine
from tests.conftest import REAL_STORES
from tests.engine_answers import answer_of
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, TERMS, balance, policy
from tests.store_state import balance_of, broken_rules, grants_of, leaks, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Refills

DAY_MS: Final = 24 * HOUR_MS
LONG: Final = replace(TERMS, tombstone_ms=4000 * DAY_MS, replay_ms=4000 * DAY_MS)
"""Records outlive the test, whose clock goes by months while a real store's stands still."""
REF: Final = TenantRef("lab", "acme")
KEYS: Final = keys.tenant_keys(REF)
CELL: Final = "credits~b"
CREATED_MS: Final = 1_769_817_600_000  # 2026-01-31
ALL_ENTRIES: Final = 10_000

units = st.integers(0, 30)
lately = st.sampled_from([0, 0, 0, 1, 1, 2, 5])
"""Which hold or write, counted back from the last."""
steps_ms = st.sampled_from(
    [*[1] * 6, *[MINUTE_MS] * 3, TERMS.lease_ms - 1, TERMS.lease_ms, HOUR_MS, DAY_MS, *[20 * DAY_MS] * 2, 100 * DAY_MS]
)
expiries_ms = st.sampled_from([1, MINUTE_MS, MINUTE_MS, TERMS.lease_ms, HOUR_MS, DAY_MS, 40 * DAY_MS, FOREVER_MS])
fractions = st.integers(1, 9).flatmap(lambda parts: st.tuples(st.integers(0, parts), st.just(parts)))
policies = st.builds(
    lambda burn, debt, free, calendar, refilled, marks: policy(
        balance(
            "credits",
            debt=debt,
            burn=burn,
            refill={"free": free, "pro": 60} if refilled else None,
            calendar=calendar,
            ledger=True,
            thresholds=marks,
        ),
        terms=LONG,
    ),
    st.sampled_from(["312", "312", "123", "231", ""]),
    st.sampled_from([0, 5]),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([(), (20, 8, 0), (20, 8, 0), (5,)]),
)


class MoneyAgrees(RuleBasedStateMachine):
    """Two engines on one clock, one tenant, one balance."""

    store: ClassVar[RunningStore]
    loop: ClassVar[asyncio.AbstractEventLoop]
    connection: ClassVar[StoreConnection]

    def __init__(self) -> None:
        super().__init__()
        self.store.command("FLUSHALL")
        self.clock, self.refills = Clock(), Refills()
        self.engines: tuple[Engine, ...] = (
            MemoryEngine(self.clock, refills=self.refills),
            RedisEngine(self.connection, clock=self.clock, refills=self.refills),
        )
        self.account = Account(plan="free")
        self.came_in = 0
        self.taken_back = 0
        self.delivered: dict[str, int] = defaultdict(int)
        self.holds = 0
        self.writes = 0

    @property
    def policy(self) -> Policy:
        assert self.refills.policy is not None
        return self.refills.policy

    def ask(self, ask: Callable[[Engine], Awaitable[Any]]) -> Any:  # noqa: ANN401  # whatever the engines answer
        model, scripts = (self.loop.run_until_complete(answer_of(ask(engine))) for engine in self.engines)
        assert model == scripts
        return model

    def plan(self, hold_id: str, credit: int) -> Plan:
        operation = Operation(ref=REF, action="work", request_id=hold_id, amounts={"credits": credit})
        return make_plan(self.policy, operation, self.account, self.clock())

    def write(self, write: AccountWrite) -> None:
        balances = {limit.cell: limit for limit in self.policy.limits if isinstance(limit, Balance)}
        marks = marks_of(self.policy, self.account, self.clock())
        content = repr((write.grants, write.expires_at_ms)).encode()
        write = replace(write, balances=balances, marks=marks, fingerprint=content)
        answer = self.ask(lambda engine: engine.write_account(REF, write, WITHIN_S))
        if isinstance(answer, Written) and answer.applied:
            change = answer.changed.get(CELL, 0)
            if write.cause is Cause.REFUND:
                self.taken_back += change
            else:
                self.came_in += change
            self.account = write.account or self.account

    @initialize(rules=policies, opening=units)
    def account_opens(self, rules: Policy, opening: int) -> None:
        self.refills.policy = rules
        account = Account(plan="free", created_at_ms=CREATED_MS, version=1)
        self.write(
            AccountWrite(account=account, grants={CELL: opening}, refills=refills_of(rules, account, self.clock()))
        )

    @rule(rules=policies, often=st.integers(0, 4))
    def another_policy(self, rules: Policy, often: int) -> None:
        if often:
            return
        self.refills.policy = rules

    @rule(step_ms=steps_ms)
    def time_passes(self, step_ms: int) -> None:
        self.clock.advance(step_ms)

    @rule(plan=st.sampled_from(["free", "pro"]), raises=st.booleans(), created_ms=st.sampled_from([CREATED_MS, 0]))
    def account_changes(self, plan: str, raises: bool, created_ms: int) -> None:  # noqa: FBT001  # drawn
        version = self.account.version
        account = Account(plan=plan, created_at_ms=created_ms, version=version + 1)
        refills = refills_of(self.policy, account, self.clock())
        self.write(AccountWrite(account=account, expected_version=version, refills=refills, raises=raises))

    def write_id(self, kind: str, back: int) -> str:
        """A new id, or that of an earlier write, which is a repeat or has other content."""
        self.writes += back == 0
        return f"{kind}{self.writes - max(back - 1, 0)}"

    @rule(amount=units, back=lately, lives_ms=expiries_ms)
    def promotion(self, amount: int, back: int, lives_ms: int) -> None:
        write_id = self.write_id("promotion", back)
        expires_ms = FOREVER_MS if lives_ms == FOREVER_MS else self.clock() + lives_ms
        grants, source = {CELL: amount}, GrantSource.PROMOTIONAL
        self.write(
            AccountWrite(grants=grants, source=source, expires_at_ms=expires_ms, cause=Cause.GRANT, write_id=write_id)
        )

    @rule(amount=units, back=lately)
    def purchase(self, amount: int, back: int) -> None:
        write_id = self.write_id("purchase", back)
        grants, source = {CELL: amount}, GrantSource.BOUGHT
        self.write(AccountWrite(grants=grants, source=source, cause=Cause.PURCHASE, write_id=write_id))

    @rule(amount=st.integers(1, 30), back=lately)
    def refund(self, amount: int, back: int) -> None:
        write_id = self.write_id("refund", back)
        grants, source = {CELL: -amount}, GrantSource.BOUGHT
        self.write(AccountWrite(grants=grants, source=source, cause=Cause.REFUND, write_id=write_id))

    def hold_id(self, back: int) -> str:
        return f"h{max(self.holds - back, 0)}"

    @rule(new=st.sampled_from([True, True, True, True, False]), amount=units)
    def reserve(self, new: bool, amount: int) -> None:  # noqa: FBT001  # drawn
        self.holds += new
        hold_id = self.hold_id(0)
        plan = self.plan(hold_id, amount)
        answer = self.ask(lambda engine: engine.reserve(plan, hold_id, WITHIN_S))
        if isinstance(answer, Granted):
            assert answer.looks[0].used <= answer.looks[0].cap

    @rule(back=lately, total=st.one_of(st.none(), units, fractions), final=st.booleans())
    def settle(self, back: int, total: int | tuple[int, int] | None, final: bool) -> None:  # noqa: FBT001  # drawn
        hold_id = self.hold_id(back)
        delivered: Mapping[str, int] | Fraction | None = None
        if isinstance(total, int):
            delivered = {"credits": total}
        elif total is not None:
            delivered = Fraction(*total)
        self.note(hold_id, lambda engine: engine.settle(REF, hold_id, delivered, final=final, within_s=WITHIN_S))

    @rule(back=lately)
    def release(self, back: int) -> None:
        hold_id = self.hold_id(back)
        self.note(hold_id, lambda engine: engine.release(REF, hold_id, WITHIN_S))

    @rule(back=lately, total=units, amount=units)
    def raise_to(self, back: int, total: int, amount: int) -> None:
        hold_id = self.hold_id(back)
        plan = self.plan("", amount)
        answer = self.ask(lambda engine: engine.extend(REF, hold_id, {"credits": total}, plan, WITHIN_S))
        if hasattr(answer, "hold"):
            self.delivered[hold_id] = answer.hold.meters["credits"].reported or 0

    @rule(amount=units, more=units, total=units, step_ms=steps_ms, end=st.sampled_from(["settle", "release", "none"]))
    def job(self, amount: int, more: int, total: int, step_ms: int, end: str) -> None:
        """All that a job may do, in one go: such sequences are rare among single steps."""
        self.reserve(new=True, amount=amount)
        self.raise_to(back=0, total=total // 2, amount=amount + more)
        self.nothing_is_lost()
        self.time_passes(step_ms)
        if end == "settle":
            self.settle(back=0, total=total, final=True)
        elif end == "release":
            self.release(back=0)

    @rule()
    def sweep(self) -> None:
        self.ask(lambda engine: engine.sweep())

    def note(self, hold_id: str, ask: Callable[[Engine], Awaitable[Any]]) -> None:
        answer = self.ask(ask)
        if isinstance(answer, HoldOutcome):
            self.delivered[hold_id] = answer.meters["credits"].reported or 0

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.refills.policy is None:
            return
        plan = usage_plan(self.policy, Operation(ref=REF, action=""), self.account, self.clock())
        self.ask(lambda engine: engine.look(plan, WITHIN_S))
        ledger = self.ask(lambda engine: engine.ledger(REF, 0, ALL_ENTRIES, WITHIN_S))
        self.falls_are_noted(ledger)
        state = snapshot(self.store)
        assert broken_rules(state) == []
        self.must_add_up(state[KEYS.cells][1], ledger)  # type: ignore[arg-type]  # a hash

    def falls_are_noted(self, ledger: list[LedgerEntry]) -> None:
        """Both engines note the same. Each note is of an entry that fell to its mark, and each entry is noted once for
        every mark that it fell to, as far as the policy of its hold had any.
        """
        noted = [
            [note._replace(note_id="") for note in self.loop.run_until_complete(engine.notes(REF, "", 1000, WITHIN_S))]
            for engine in self.engines
        ]
        assert noted[0] == noted[1]
        falls = Counter(
            (entry.at_ms, mark, entry.after.left)
            for entry in ledger
            for mark in (20, 8, 5, 0)
            if entry.before.left > mark >= entry.after.left
        )
        told = Counter((note.at_ms, note.mark, note.left) for note in noted[0])
        assert told <= falls

    def must_add_up(self, cells: Mapping[bytes, bytes], ledger: list[LedgerEntry]) -> None:
        """The equation of a balance, each part known from elsewhere than the cell."""
        raw = cells[CELL.encode()]
        totals = balance_of(raw)
        refilled = sum(
            entry.after.granted - entry.before.granted
            for entry in ledger
            if entry.cause in {Cause.REFILL, Cause.UPGRADE}
        )
        assert totals["granted"] == self.came_in + refilled
        assert totals["reversed"] == self.taken_back
        assert totals["charged"] + totals["uncollected"] == sum(self.delivered.values())
        expired = sum(entry.after.expired - entry.before.expired for entry in ledger)
        assert totals["expired"] == expired
        assert (
            sum(entry.units for entry in ledger)
            == totals["granted"] - totals["reversed"] - totals["charged"] - totals["expired"]
        )
        assert all(expiry > self.clock() for _, expiry, _ in grants_of(raw))

    def teardown(self) -> None:
        self.clock.advance(10**9)
        for engine in self.engines:
            self.loop.run_until_complete(engine.sweep())
        assert leaks(snapshot(self.store)) == []


@pytest.mark.parametrize("store_name", REAL_STORES[:2])
def test_money_agrees_and_adds_up(
    store_name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sweep looks at all 16,384 slots; the tenant's is enough here.
    monkeypatch.setattr(keys, "index_keys", lambda: [KEYS.due_index])
    loop = asyncio.new_event_loop()
    store: RunningStore = request.getfixturevalue(store_name)
    connection = StoreConnection(store.url)
    loop.run_until_complete(connection.connect())
    machine = type("Machine", (MoneyAgrees,), {"store": store, "loop": loop, "connection": connection})
    try:
        run_state_machine_as_test(machine, settings=settings(settings(), max_examples=2 * settings().max_examples))
    finally:
        loop.run_until_complete(connection.close())
        loop.close()
