"""The scripts against the plain model: random operations, equal answers, and the contract's invariants at each step.

`HYPOTHESIS_PROFILE=deep` looks longer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.domain.account import Account
from server.domain.hold import TRANSITIONS, Delivered, HoldView, State
from server.domain.limit_value import value_of
from server.domain.limits import Balance, Count, Limit, Quota
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, bare_form, make_plan, usage_plan
from server.domain.queue import QueueTerms, Ticket, queue_terms
from server.domain.sampling import Entry, Outcome, Page
from server.engine import keys
from server.engine.base import AccountWrite, Engine, Extended, Found, Granted, Looked, Queued, Refused, Stale, Written
from server.engine.books import Booked, Booking, Target
from server.engine.client import StoreConnection
from server.engine.memory_engine import MemoryEngine
from server.engine.redis_engine import RedisEngine
from tests.conftest import MOST_CELLS, REAL_STORES
from tests.engine_answers import Fault, answer_of
from tests.policies_for_tests import HOUR_MS, policy
from tests.policies_for_tests import TERMS as SHORT_LIVED
from tests.property import strategies as draw_
from tests.property.reading import any_overdue, balances_in
from tests.store_state import Snapshot, broken_rules, leaks, snapshot
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock

Ask = Callable[[Engine], Awaitable[Any]]

MOST_INSTANTS: Final = 60
"""Below what a window keeps apart; beyond it the scripts may merge entries, and the model does not."""

TERMS: Final = replace(SHORT_LIVED, tombstone_ms=7000 * 24 * HOUR_MS, replay_ms=7000 * 24 * HOUR_MS)
"""Records outlive the longest run, in which months pass."""

MOVES: Final = {(state, to) for (state, _), to in TRANSITIONS.items() if isinstance(to, State)}


class EnginesAgree(RuleBasedStateMachine):
    """Two engines on one clock are asked the same."""

    store: ClassVar[RunningStore]
    loop: ClassVar[asyncio.AbstractEventLoop]
    connection: ClassVar[StoreConnection]

    def __init__(self) -> None:
        super().__init__()
        self.store.command("FLUSHALL")
        self.clock = Clock()
        self.lines: list[Limit] = []
        """Pools with queues, the same in all policies of a run: a store learns of other terms by the next request."""
        self.policy = policy()
        self.engines: tuple[Engine, ...] = (
            MemoryEngine(self.clock, most_cells=MOST_CELLS, queues=self.queues),
            RedisEngine(self.connection, clock=self.clock, most_cells=MOST_CELLS, queues=self.queues),
        )
        self.accounts: dict[str, list[Account]] = {name: [Account(plan="free")] for name in draw_.TENANTS}
        self.last: Ask | None = None
        self.overdue = False
        self.stepped_back = False
        self.instants = 0
        self.states: dict[tuple[str, str], State] = {}
        self.granted: dict[tuple[str, str], int] = defaultdict(int)
        self.charged_to: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
        """Per hold: the balance cells that it draws from, their meter, and the total where that begins."""

    # asking both

    def ask(self, ask: Ask, *, repeatable: bool = True) -> Any:  # noqa: ANN401  # whatever the engines answer
        """The one answer of both engines; an error is one, too. Turns that only new terms bring are made before."""
        before = self.with_turns_made()
        model, scripts = (self.loop.run_until_complete(answer_of(ask(engine))) for engine in self.engines)
        assert model == scripts
        was_overdue = any_overdue(before, self.clock())
        if isinstance(model, Refused | Looked | Stale | Fault) and not was_overdue and not self.stepped_back:
            assert snapshot(self.store) == before
        self.overdue = False
        self.last = ask if repeatable else None
        return model

    def with_turns_made(self) -> Snapshot:
        """The store, once those who wait have the turns that are due by now."""
        state = snapshot(self.store)
        if not any(key.endswith(b"}:pools") for key in state):
            return state
        for name in draw_.TENANTS:
            for engine in self.engines:
                self.loop.run_until_complete(engine.queues.see_to(self.ref(name), WITHIN_S))
        return snapshot(self.store)

    def queues(self, ref: TenantRef, account: Account | None, now_ms: int) -> QueueTerms:
        return queue_terms(self.policy, ref, account, now_ms)

    def ref(self, name: str) -> TenantRef:
        return TenantRef("lab", name)

    def plan(
        self, name: str, scope: Mapping[str, str], amounts: Mapping[str, int], hold_id: str = "", *, version: int = -1
    ) -> Plan:
        accounts = self.accounts[name]
        operation = Operation(ref=self.ref(name), action="work", request_id=hold_id, scope=scope, amounts=amounts)
        return make_plan(self.policy, operation, accounts[max(version, -len(accounts))], self.clock())

    # rules

    @initialize(limits=draw_.limits, lines=draw_.lines)
    def first_policy(self, limits: list[Limit], lines: list[Limit]) -> None:
        self.lines = lines
        self.policy = policy(*limits, *lines, terms=TERMS)

    @rule(limits=draw_.limits)
    def another_policy(self, limits: list[Limit]) -> None:
        self.policy = policy(*limits, *self.lines, terms=TERMS)
        self.last = None

    @precondition(lambda self: self.instants < MOST_INSTANTS)
    @rule(step_ms=draw_.steps_ms)
    def time_passes(self, step_ms: int) -> None:
        self.clock.advance(step_ms)
        self.instants += 1
        self.overdue = True
        self.last = None

    @precondition(lambda self: self.instants < MOST_INSTANTS)
    @rule(step_ms=draw_.steps_back_ms)
    def the_clock_steps_back(self, step_ms: int) -> None:
        self.clock.advance(-step_ms)
        self.instants += 1
        self.stepped_back = True
        self.last = None

    @rule(
        name=draw_.tenant_names,
        hold_id=draw_.hold_ids,
        scope=draw_.scopes,
        amounts=draw_.amounts,
        named=st.sampled_from([True, True, True, False]),
        version=st.sampled_from([-1, -1, -1, -2]),
        ticket=draw_.tickets,
    )
    def reserve(  # noqa: PLR0913, PLR0917  # drawn one by one
        self,
        name: str,
        hold_id: str,
        scope: Mapping[str, str],
        amounts: Mapping[str, int],
        named: bool,  # noqa: FBT001  # drawn
        version: int,
        ticket: Ticket,
    ) -> None:
        plan = self.plan(name, scope, amounts, hold_id, version=version)
        hold_id = hold_id if named or plan.leaves_hold else ""
        kept = None if plan.shape.queue is None else ticket
        answer = self.ask(lambda engine: engine.reserve(plan, hold_id, WITHIN_S, kept), repeatable=bool(hold_id))
        if not isinstance(answer, Granted | Queued):
            return
        checks = list(zip(plan.checks, answer.looks, strict=True))
        for check, look in checks:
            if check.take and not check.limit.shadow and not isinstance(check.limit, (Balance, Quota)):
                assert look.used <= check.cap
        if hold_id:
            self.charged_to[name, hold_id] = [
                (check.limit.cell, check.limit.meter, 0)
                for check, look in checks
                if isinstance(check.limit, Balance) and check.settles and look.fits
            ]

    @precondition(lambda self: self.lines)
    @rule(name=draw_.tenant_names, hold_id=draw_.hold_ids, ticket=st.one_of(st.none(), draw_.tickets))
    def take_turn(self, name: str, hold_id: str, ticket: Ticket | None) -> None:
        plan = self.plan(name, draw_.SCOPES[0], {}, hold_id)
        self.ask(lambda engine: engine.queues.ticket(plan, hold_id, ticket, WITHIN_S), repeatable=False)

    @precondition(lambda self: self.lines)
    @rule(name=draw_.tenant_names, hold_id=draw_.hold_ids, ticket=draw_.tickets)
    def leave(self, name: str, hold_id: str, ticket: Ticket) -> None:
        self.ask(lambda engine: engine.queues.leave(self.ref(name), hold_id, ticket.owner or "ab.1", WITHIN_S))

    @precondition(lambda self: self.lines)
    @rule(name=draw_.tenant_names, hold_ids=st.lists(draw_.hold_ids, min_size=1, max_size=3, unique=True))
    def renew_tickets(self, name: str, hold_ids: list[str]) -> None:
        cells = self.policy.queue_cells
        self.ask(lambda engine: engine.queues.renew(self.ref(name), cells, hold_ids, 5000, WITHIN_S))

    @rule(name=draw_.tenant_names, hold_id=draw_.hold_ids, delivered=draw_.delivered, final=st.booleans())
    def settle(
        self,
        name: str,
        hold_id: str,
        delivered: Delivered,
        final: bool,  # noqa: FBT001  # drawn
    ) -> None:
        self.ask(lambda engine: engine.settle(self.ref(name), hold_id, delivered, final=final, within_s=WITHIN_S))

    @rule(
        name=draw_.tenant_names,
        hold_id=draw_.hold_ids,
        delivered=draw_.delivered,
        allocation=st.sampled_from(draw_.NAMES),
    )
    def settle_as(self, name: str, hold_id: str, delivered: Delivered, allocation: str) -> None:
        ref = self.ref(name)
        self.ask(
            lambda engine: engine.settle(ref, hold_id, delivered, final=True, within_s=WITHIN_S, allocation=allocation)
        )

    @rule(
        name=draw_.tenant_names,
        samples=st.lists(st.tuples(draw_.pages, st.integers(0, 2), st.integers(0, 3), draw_.units), max_size=6),
        ago=st.sampled_from([0, 0, 0, 1]),
        project=st.sampled_from(["p", "q 1"]),
    )
    def record(self, name: str, samples: list[tuple[Page, int, int, int]], ago: int, project: str) -> None:
        """Samples of quotas in this cycle, or in the one before it."""
        account = self.accounts[name][-1]
        quotas = [limit for limit in self.policy.limits if isinstance(limit, Quota)]
        targets = []
        for quota in quotas:
            terms = quota.terms(account, self.clock())
            if ago:
                terms = quota.terms(account, terms.start_ms - 1)
            scope = tuple(project for _ in quota.scope)
            value = value_of(quota, account, self.clock()).value
            targets.append(Target(bare_form(quota, scope, value, terms), over=bool(ago)))
        until_ms = self.clock() + 3000 * 24 * HOUR_MS
        places = tuple(range(len(targets)))
        entries = tuple((Entry(page, key, at, number, 2), places, until_ms) for page, key, at, number in samples)
        booking = Booking(account.version, tuple(targets), entries)
        answer = self.ask(lambda engine: engine.books.record(self.ref(name), booking, WITHIN_S))
        if isinstance(answer, Booked) and Outcome.TOO_LONG in answer.outcomes:
            self.last = None  # what does not fit is a new question when it comes again

    @rule(name=draw_.tenant_names, allocation=st.sampled_from((*draw_.NAMES, *draw_.HOLD_IDS)), data=st.data())
    def give_back(self, name: str, allocation: str, data: st.DataObject) -> None:
        counts = [limit.cell for limit in self.policy.limits if isinstance(limit, Count)]
        cell = data.draw(st.sampled_from(["", *counts]))
        self.ask(
            lambda engine: engine.books.release_allocation(self.ref(name), allocation, cell, WITHIN_S), repeatable=False
        )

    @rule(name=draw_.tenant_names, hold_id=draw_.hold_ids)
    def release(self, name: str, hold_id: str) -> None:
        self.ask(lambda engine: engine.release(self.ref(name), hold_id, WITHIN_S))

    @rule(name=draw_.tenant_names, hold_id=draw_.hold_ids, used=draw_.reports)
    def renew(self, name: str, hold_id: str, used: Mapping[str, int]) -> None:
        self.ask(lambda engine: engine.extend(self.ref(name), hold_id, used, None, WITHIN_S))

    @rule(
        name=draw_.tenant_names,
        hold_id=draw_.hold_ids,
        used=draw_.reports,
        scope=draw_.scopes,
        amounts=draw_.amounts,
        version=st.sampled_from([-1, -1, -1, -2]),
    )
    def raise_to(  # noqa: PLR0913, PLR0917  # drawn one by one
        self,
        name: str,
        hold_id: str,
        used: Mapping[str, int],
        scope: Mapping[str, str],
        amounts: Mapping[str, int],
        version: int,
    ) -> None:
        hold = self.all_found([(name, hold_id)])[name, hold_id]
        reserved = {meter: totals.reserved for meter, totals in hold.meters.items()} if hold is not None else {}
        plan = self.plan(name, scope, amounts, version=version)
        answer = self.ask(lambda engine: engine.extend(self.ref(name), hold_id, used, plan, WITHIN_S))
        if isinstance(answer, Extended) and answer.raised and answer.looks:
            known = self.charged_to[name, hold_id]
            floors = {meter: max(reserved[meter], totals.reported or 0) for meter, totals in answer.hold.meters.items()}
            known += [
                (check.limit.cell, check.limit.meter, floors[check.limit.meter])
                for check, look in zip(plan.checks, answer.looks, strict=True)
                if isinstance(check.limit, Balance)
                and check.settles
                and look.fits
                and check.take > floors[check.limit.meter]
                and check.limit.cell not in {cell for cell, _, _ in known}
            ]

    @rule(name=draw_.tenant_names, scope=draw_.scopes, amounts=draw_.amounts, version=st.sampled_from([-1, -1, -2]))
    def look(self, name: str, scope: Mapping[str, str], amounts: Mapping[str, int], version: int) -> None:
        plan = self.plan(name, scope, amounts, version=version)
        self.ask(lambda engine: engine.look(plan, WITHIN_S))

    @rule()
    def sweep(self) -> None:
        self.ask(lambda engine: engine.sweep())

    @rule(name=draw_.tenant_names, count=st.integers(1, 3))
    def list_holds(self, name: str, count: int) -> None:
        self.ask(lambda engine: engine.open_holds(self.ref(name), (0, ""), count, WITHIN_S))

    @rule(
        name=draw_.tenant_names,
        plan=st.sampled_from(["free", "pro"]),
        grants=draw_.grants,
        behind=st.sampled_from([0, 0, 0, 1]),
        data=st.data(),
    )
    def write_account(self, name: str, plan: str, grants: Mapping[str, int], behind: int, data: st.DataObject) -> None:
        known = self.accounts[name][-1]
        limit_ids = tuple(limit.id for limit in self.policy.limits)
        overrides = data.draw(draw_.overrides(limit_ids, self.clock()))
        account = Account(plan=plan, overrides=overrides, version=known.version + 1)
        write = AccountWrite(account=account, expected_version=known.version + behind, grants=grants)
        answer = self.ask(lambda engine: engine.write_account(self.ref(name), write, WITHIN_S), repeatable=False)
        if isinstance(answer, Written):
            self.accounts[name].append(account)
            self.note_grants(name, grants)

    @rule(name=draw_.tenant_names, grants=draw_.grants, write_id=st.sampled_from(["w1", "w2", "w3"]))
    def grant_units(self, name: str, grants: Mapping[str, int], write_id: str) -> None:
        write = AccountWrite(grants=grants, write_id=write_id, fingerprint=repr(sorted(grants.items())).encode())
        answer = self.ask(lambda engine: engine.write_account(self.ref(name), write, WITHIN_S))
        if isinstance(answer, Written) and answer.applied:
            self.note_grants(name, grants)

    def note_grants(self, name: str, grants: Mapping[str, int]) -> None:
        for cell, granted in grants.items():
            self.granted[name, cell] += granted

    @precondition(lambda self: self.last is not None)
    @rule(times=st.integers(1, 3))
    def the_same_message_again(self, times: int) -> None:
        """One delivery or several: the same state."""
        assert self.last is not None
        before = self.with_turns_made()
        for _ in range(times):
            self.ask(self.last)
            assert snapshot(self.store) == before

    # invariants

    def all_found(self, names: list[tuple[str, str]]) -> dict[tuple[str, str], HoldView | None]:
        """These holds, as both engines know them."""

        async def find(engine: Engine) -> list[Found]:
            asked = [engine.find(self.ref(name), hold_id, WITHIN_S) for name, hold_id in names]
            return list(await asyncio.gather(*asked))

        model, scripts = (self.loop.run_until_complete(find(engine)) for engine in self.engines)
        assert model == scripts
        return {name: known.hold for name, known in zip(names, model, strict=True)}

    @invariant()
    def the_store_keeps_its_rules(self) -> None:
        """Holds are equal and end once; live holds, due entries and cells tell the same; no unit is lost."""
        state = snapshot(self.store)
        assert broken_rules(state) == []
        holds = self.all_found([(name, hold_id) for name in draw_.TENANTS for hold_id in draw_.HOLD_IDS])
        for key, hold in holds.items():
            self.must_be_a_move(key, hold)
        self.must_conserve_money(state, holds)

    def must_be_a_move(self, key: tuple[str, str], hold: HoldView | None) -> None:
        before = self.states.get(key)
        if hold is None or before is None:
            assert before is None
        else:
            # Two moves may lie between two looks: a lease ends, and the late settle of it comes at once.
            late = {(before, State.EXPIRED), (State.EXPIRED, hold.state)}
            assert before is hold.state or (before, hold.state) in MOVES or late <= MOVES
        if hold is not None:
            self.states[key] = hold.state

    def must_conserve_money(self, state: Snapshot, holds: Mapping[tuple[str, str], HoldView | None]) -> None:
        """Granted is what was granted, and delivered is charged plus uncollected, to the unit."""
        delivered: dict[tuple[str, str], int] = defaultdict(int)
        for (name, hold_id), drawn in self.charged_to.items():
            hold = holds[name, hold_id]
            for cell, meter, base in drawn:
                assert hold is not None
                delivered[name, cell] += max((hold.meters[meter].reported or 0) - base, 0)
        for name, cell, totals in balances_in(state):
            assert totals["granted"] == self.granted[name, cell]
            assert totals["charged"] + totals["uncollected"] == delivered[name, cell]
            assert totals["reversed"] == totals["expired"] == 0
            assert totals["debt"] <= draw_.DEBT

    @precondition(lambda self: not self.overdue)
    @invariant()
    def figures_are_equal(self) -> None:
        """Limits, cycles of quotas, notes. Not right after a step of the clock, so that the next operation finds the
        overdue holds itself.
        """
        for name in draw_.TENANTS:
            for scope in draw_.SCOPES[:2]:
                operation = Operation(ref=self.ref(name), action="", scope=scope)
                plan = usage_plan(self.policy, operation, self.accounts[name][-1], self.clock())
                model, scripts = (
                    self.loop.run_until_complete(engine.cycles(plan, WITHIN_S)) for engine in self.engines
                )
                assert model == scripts
            noted = [
                [note._replace(note_id="") for note in self.loop.run_until_complete(notes)]
                for notes in (engine.notes(self.ref(name), "", 1000, WITHIN_S) for engine in self.engines)
            ]
            # What one settle crosses is noted in no order.
            assert sorted(noted[0]) == sorted(noted[1])

    def teardown(self) -> None:
        """When every lease has ended, nothing is left of any hold."""
        self.clock.advance(MOST_INSTANTS * 30 * 24 * HOUR_MS)
        for engine in self.engines:
            self.loop.run_until_complete(engine.sweep())
        assert leaks(snapshot(self.store)) == []


@pytest.mark.timeout(600)  # half a minute on a quiet core; with a failure to cut down, minutes
@pytest.mark.parametrize("store_name", REAL_STORES[:2])
def test_scripts_and_model_agree(
    store_name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, figures, holds and errors are equal after every step, and the store keeps its rules."""
    # A sweep looks at all 16,384 slots; those of the two tenants are enough here, and fifty times faster.
    slots_in_use = [keys.tenant_keys(TenantRef("lab", name)).due_index for name in draw_.TENANTS]
    monkeypatch.setattr(keys, "index_keys", lambda: slots_in_use)
    loop = asyncio.new_event_loop()
    store: RunningStore = request.getfixturevalue(store_name)
    connection = StoreConnection(store.url)
    loop.run_until_complete(connection.connect())
    machine = type("Machine", (EnginesAgree,), {"store": store, "loop": loop, "connection": connection})
    try:
        run_state_machine_as_test(machine, settings=settings(settings(), max_examples=2 * settings().max_examples))
    finally:
        loop.run_until_complete(connection.close())
        loop.close()
