"""The use cases of the data plane: plan, ask the engine, word the answer. Knows neither gRPC nor Redis."""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Final, TypeVar

from server.answers import (
    claimed,
    extended,
    lease_of,
    must_be_same,
    must_be_scope,
    not_granted,
    operation_of,
    replayed_answer,
    totals_of,
    waits_at,
    would,
)
from server.domain import timed as timing
from server.domain.account import Account
from server.domain.act import Act
from server.domain.decision import Decision, grant, refuse
from server.domain.errors import (
    AccountChangedError,
    DeadlineError,
    HoldNotFoundError,
    InvalidRequestError,
    StoreLostError,
    StoreUnavailableError,
)
from server.domain.hold import WAITING, Delivered, HoldView
from server.domain.limit_value import value_in
from server.domain.limits import Kind
from server.domain.operation import (
    Operation,
    TenantRef,
    amount_violations,
    scope_violations,
    text_violations,
    unknown,
)
from server.domain.plan import ALWAYS_COUNTED, Plan, account_or_default, make_plan, terms_of, usage_plan
from server.domain.policy import Policy
from server.domain.pricing import price
from server.domain.queue import Ticket
from server.engine.base import (
    Engine,
    Found,
    Granted,
    HoldOutcome,
    Looked,
    Overtaken,
    Queued,
    Replayed,
    Stale,
)
from server.engine.faults import no_such_hold
from server.engine.queues import Claimed
from server.forms import Forms, Planner
from server.policy.store import PolicyStore
from server.views import EffectiveLimit, LimitsView, UsageView, usage_view
from server.waiting import Waiting

PLANNING_ROUNDS: Final = 4
"""The first plan and three more, when the account or an override's end overtakes it."""

ACCOUNTS_CACHED: Final = 100_000
"""Accounts kept by this process; the script checks the version, so a stale one costs a round trip, never more."""

_Answer = TypeVar("_Answer")


class QuotaGate:
    """One per process. `trusted` tells whether the store still holds the state that money stands on."""

    def __init__(self, policies: PolicyStore, engine: Engine, *, trusted: Callable[[], str] = lambda: "") -> None:
        self._policies = policies
        self._engine = engine
        self._why_untrusted = trusted
        self._accounts: OrderedDict[TenantRef, Account | None] = OrderedDict()
        self._forms = Forms()
        self.waiting = Waiting(engine.queues, lambda: policies.loaded_at_s)
        self._last_seen_ms = 0

    def resolve(self, ref: TenantRef, *, every: bool = False) -> tuple[Policy, TenantRef]:
        """The policy that a caller named, or the only one, with the tenant's full name; with `every` an empty name
        stands for all of the policy's.
        """
        policy = self._policies.get(ref.policy)
        bad = text_violations("tenant", ref.tenant, required=not every)
        if bad:
            raise InvalidRequestError(bad)
        return policy, ref if ref.policy == policy.name else TenantRef(policy.name, ref.tenant)

    def policy(self, name: str) -> Policy:
        """The policy of that name, or the only one; raises InvalidRequestError."""
        return self._policies.get(name)

    async def hold(self, ref: TenantRef, hold_id: str, *, within_s: float) -> HoldView:
        """A hold as stored; raises HoldNotFoundError."""
        _, ref = self._held(ref, hold_id)
        return (await self._must_find(ref, hold_id, within_s))[0]

    async def check_and_reserve(
        self, operation: Operation, *, within_s: float, ticket: Ticket | None = None
    ) -> Decision:
        """Takes everything that the operation needs, or nothing; where only a pool with a queue has no place, all but
        the place, which the request waits for with this ticket.
        """
        policy, operation, planner = self._prepared(operation)
        attempt = self._attempt if ticket is None else partial(self._attempt, ticket=ticket)
        decision = await self._planned(policy, operation, attempt, within_s, planner)
        self._decided(policy, operation, decision)
        return decision

    def _decided(self, policy: Policy, operation: Operation, decision: Decision) -> None:
        """Is told of each answer of `check_and_reserve`."""

    async def _attempt(self, plan: Plan, within_s: float, ticket: Ticket | None = None) -> Decision | Stale:
        operation, shape = plan.operation, plan.shape
        hold_id = operation.request_id
        self._must_trust_for(plan)
        if plan.guarded:
            return await self._guarded(plan, hold_id, within_s)
        if operation.check_only:
            looked: Looked | Stale = await self._engine.look(plan, within_s)
            return looked if isinstance(looked, Stale) else would(plan, looked)
        if not hold_id and plan.leaves_hold:
            hold_id = secrets.token_hex(16)
        kept = None if shape.queue is None else ticket or Ticket(shape.queue.ticket_ms)
        answer = await self._engine.reserve(plan, hold_id, within_s, kept)
        if isinstance(answer, Granted):
            lease = lease_of(hold_id, answer.lease_ends_at_ms, answer.now_ms, plan.terms.lease_ms)
            return grant(plan, answer.looks, lease, degraded=answer.degraded)
        if isinstance(answer, Replayed) and answer.hold.state in WAITING:
            return await self._at_its_turn(plan, answer.hold, kept, within_s)
        return not_granted(plan, hold_id, answer)

    async def wait_for_turn(
        self, operation: Operation, *, within_s: float, time_left: Callable[[], float | None]
    ) -> Decision:
        """As `check_and_reserve`, but a request that must wait is answered when its turn has come. Raises DeadlineError
        when `time_left` (seconds; None for no end) is over before; `within_s` bounds each wait for the store.
        """
        policy, ref = self.resolve(operation.ref)
        operation = operation._replace(request_id=operation.request_id or secrets.token_hex(16))
        try:
            with self.waiting.turn(ref, operation.request_id, policy.queue_cells) as turn:
                while True:
                    decision = await self.check_and_reserve(operation, within_s=within_s, ticket=turn.ticket)
                    if not decision.position:
                        return decision
                    await self.waiting.until_come(turn, time_left())
        except TimeoutError:
            raise DeadlineError("the deadline ended before its turn came; the request has left the queue") from None

    def claimed(self, plan: Plan, known: Claimed) -> Decision:
        """The answer of a request that waited and has its place, or had its answer before."""
        return claimed(plan, known)

    async def _at_its_turn(
        self, plan: Plan, hold: HoldView, ticket: Ticket | None, within_s: float
    ) -> Decision | Stale:
        """A request that waits, asked again: its position, or the place that its turn has brought."""
        must_be_same(plan, hold)
        match await self._engine.queues.ticket(plan, hold.hold_id, ticket, within_s):
            case Stale() as stale:
                return stale
            case Queued() as known:
                return waits_at(plan, hold.hold_id, known, hold)
            case Claimed() as known:
                return self.claimed(plan, known)

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        hold_id: str,
        delivered: Delivered,
        *,
        final: bool,
        within_s: float,
        scope: Mapping[str, str] = MappingProxyType({}),
        allocation: str = "",
    ) -> HoldOutcome:
        """Charges what was delivered; when final, gives the rest back and ends the hold. A caller that names
        dimensions pays a read for them to be compared with the hold's, which never change. What the hold has of counts
        stands from then on as `allocation`, or under the hold's id.
        """
        policy, ref = self._held(ref, hold_id)
        if isinstance(delivered, Mapping):
            _must_be_amounts("usage.used", delivered, policy)
        if scope:
            started_s = monotonic()
            found = await self._find(ref, hold_id, within_s)
            scope = policy.resolved(scope)
            must_be_scope(scope, found.hold)
            within_s -= monotonic() - started_s
        if delivered is None and final and policy.is_timed:
            hold, now_ms = await self._must_find(ref, hold_id, within_s)
            if (timed := timing.terms_of(policy, hold)) is not None:
                delivered = timing.delivered(hold, timed, now_ms)
        if allocation and (bad := text_violations("allocation", allocation)):
            raise InvalidRequestError(bad)
        outcome = await self._known(
            self._engine.settle(ref, hold_id, delivered, final=final, within_s=within_s, allocation=allocation)
        )
        if final and outcome.applied:
            self._settled(policy, outcome)
        return outcome

    def _settled(self, policy: Policy, outcome: HoldOutcome) -> None:
        """Is told of each hold that a settle ended."""

    async def release(self, ref: TenantRef, hold_id: str, *, within_s: float, act: Act | None = None) -> HoldOutcome:
        """Gives back what no report has charged and ends the hold; as an operator's act if there is one."""
        _, ref = self._held(ref, hold_id)
        return await self._known(self._engine.release(ref, hold_id, within_s, act))

    async def release_allocation(self, ref: TenantRef, name: str, limit_id: str, *, within_s: float) -> bool:
        """Gives back a standing allocation, of one count alone if its limit is named; whether anything stood."""
        policy, ref = self.resolve(ref)
        bad = text_violations("allocation", name, required=True)
        counts = {limit.id: limit.cell for limit in policy.limits if limit.kind is Kind.COUNT}
        if limit_id and limit_id not in counts:
            bad.append(unknown("limit_id", limit_id, policy.name, "count", counts))
        if bad:
            raise InvalidRequestError(bad)
        self.must_trust()
        return await self._engine.books.release_allocation(ref, name, counts.get(limit_id, ""), within_s)

    async def extend(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        hold_id: str,
        used: Mapping[str, int],
        amounts: Mapping[str, int],
        *,
        within_s: float,
        connection: str = "",
    ) -> Decision:
        """Renews the lease, reports totals, raises amounts. Of a hold whose time is paid the first one starts it, on
        this `connection`, and each reports the time that has passed.
        """
        policy, ref = self._held(ref, hold_id)
        _must_be_amounts("used", used, policy)
        _must_be_amounts("amounts", amounts, policy)
        if bad := text_violations("connection", connection):
            raise InvalidRequestError(bad)
        started_s = monotonic()
        hold, now_ms = await self._must_find(ref, hold_id, within_s)
        operation = operation_of(ref, hold.note, amounts, policy)
        timed = timing.terms_of(policy, hold)
        if timed is None and connection:
            raise InvalidRequestError.of("connection", f"hold {hold_id!r} has no time that a connection would start")

        async def attempt(plan: Plan, left_s: float) -> Decision | Stale:
            nonlocal hold, now_ms
            self._must_trust_for(plan)
            if hold.state in WAITING:
                match await self._engine.queues.ticket(plan, hold_id, None, left_s):
                    case Stale() as stale:
                        return stale
                    case Queued() as known:
                        return waits_at(plan, hold_id, known, hold)
                    case Claimed(looks=looks) as known if looks:
                        return self.claimed(plan, known)
            start, reports = timing.contact(hold, timed, connection, now_ms) if timed is not None else (None, {})
            raised = plan if amounts else None
            answer = await self._engine.extend(ref, hold_id, {**used, **reports}, raised, left_s, start=start)
            if isinstance(answer, Overtaken):
                hold, now_ms = await self._must_find(ref, hold_id, left_s)
                return Stale(now_ms, self._accounts.get(ref))
            return answer if isinstance(answer, Stale) else extended(plan, answer)

        return await self._planned(policy, operation, attempt, within_s - (monotonic() - started_s))

    async def estimate(
        self, operation: Operation, *, within_s: float
    ) -> tuple[Decision, tuple[tuple[str, Mapping[str, int]], ...]]:
        """What the operation would be answered now, and the price of each item."""
        policy, operation, planner = self._prepared(operation)

        async def attempt(plan: Plan, left_s: float) -> Decision | Stale:
            self._must_trust_for(plan)
            answer = await self._engine.look(plan, left_s)
            return answer if isinstance(answer, Stale) else would(plan, answer)

        decision = await self._planned(policy, operation, attempt, within_s, planner)
        return decision, tuple((item.id, price(item, operation, policy)) for item in operation.items)

    async def usage(self, ref: TenantRef, scope: Mapping[str, str], *, within_s: float) -> UsageView:
        """Current figures of every limit whose dimensions are named."""
        policy, ref = self.resolve(ref)
        bad = scope_violations(scope, policy)
        if bad:
            raise InvalidRequestError(bad)
        scope = policy.resolved(scope)
        operation = Operation(ref=ref, action="", scope=scope)

        async def attempt(plan: Plan, left_s: float) -> UsageView | Stale:
            self._must_trust_for(plan)
            answer = await self._engine.cycles(plan, left_s)
            if isinstance(answer, Stale):
                return answer
            return usage_view(plan, answer)

        return await self._planned(policy, operation, attempt, within_s, usage_plan)

    async def limits(self, ref: TenantRef, *, within_s: float) -> LimitsView:
        """Which limits apply to the tenant and where their values came from."""
        policy, ref = self.resolve(ref)
        found = await self._find(ref, "", within_s)
        account = account_or_default(policy, ref, found.account, found.now_ms)
        return LimitsView(
            now_ms=found.now_ms,
            plan=account.plan,
            limits=tuple(
                EffectiveLimit(limit, value, found.now_ms, terms_of(limit, account, found.now_ms))
                for limit in policy.limits
                if not account.flags.get(limit.unless)
                and (
                    (value := value_in(policy, limit, account, found.now_ms)).value is not None
                    or limit.kind in {*ALWAYS_COUNTED, Kind.GATE}
                )
            ),
            products=tuple(policy.products.values()),
            policy_version=policy.version,
            totals=totals_of(policy, account, found.now_ms),
        )

    def must_trust(self) -> None:
        """Raises StoreLostError while the store has not the state that money stands on."""
        if why := self._why_untrusted():
            raise StoreLostError(why)

    def forget(self, ref: TenantRef) -> None:
        """Drops a cached account after this process changed it."""
        self._accounts.pop(ref, None)

    def _prepared(self, operation: Operation) -> tuple[Policy, Operation, Planner]:
        """The policy, the validated operation, and what plans it."""
        policy, ref = self.resolve(operation.ref)
        operation, planner = self._forms.prepared(policy, operation.of(ref))
        return policy, operation, planner

    def _held(self, ref: TenantRef, hold_id: str) -> tuple[Policy, TenantRef]:
        policy, ref = self.resolve(ref)
        bad = text_violations("hold_id", hold_id, required=True)
        if bad:
            raise InvalidRequestError(bad)
        return policy, ref

    def _must_trust_for(self, plan: Plan) -> None:
        if plan.closed:
            self.must_trust()

    async def _known(self, outcome: Awaitable[HoldOutcome]) -> HoldOutcome:
        """The outcome; that there is no such hold is an answer only from a store that has lost none."""
        try:
            return await outcome
        except HoldNotFoundError:
            self.must_trust()
            raise

    async def _guarded(self, plan: Plan, hold_id: str, within_s: float) -> Decision | Stale:
        """A guard is about to refuse: the caller's id may name a grant, and the account may have moved on."""
        found = await self._find(plan.operation.ref, hold_id, within_s)
        version = found.account.version if found.account is not None else 0
        if found.hold is not None and hold_id and not plan.operation.check_only:
            if found.hold.state in WAITING:
                return await self._at_its_turn(plan, found.hold, None, within_s)
            return replayed_answer(plan, Replayed(found.now_ms, found.hold, ()))
        if version != plan.account.version or not plan.valid_from_ms <= found.now_ms < plan.valid_until_ms:
            return Stale(found.now_ms, found.account)
        return refuse(plan, ())

    async def _planned(
        self,
        policy: Policy,
        operation: Operation,
        attempt: Callable[[Plan, float], Awaitable[_Answer | Stale]],
        within_s: float,
        planner: Planner = make_plan,
    ) -> _Answer:
        """Plans with the account as cached, and again with what the store says until the two agree.

        `attempt` gets a plan and the seconds that are left for it.
        """
        started_s = monotonic()
        ref = operation.ref
        if ref not in self._accounts:
            try:
                await self._find(ref, "", within_s)
            except StoreUnavailableError:
                if policy.default_plan is None:  # else the engine may go on without the store
                    raise
        for _ in range(PLANNING_ROUNDS):
            account = account_or_default(policy, ref, self._accounts.get(ref), self._last_seen_ms)
            left_s = within_s - (monotonic() - started_s)
            if left_s <= 0:
                raise StoreUnavailableError("the store is slow: no time was left to decide; nothing was done, retry")
            answer = await attempt(planner(policy, operation, account, self._last_seen_ms), left_s)
            if not isinstance(answer, Stale):
                return answer
            self._remember(ref, answer.account, answer.now_ms)
        message = f"account {ref.tenant!r} changed {PLANNING_ROUNDS} times while the request was planned; retry"
        raise AccountChangedError(message)

    async def _must_find(self, ref: TenantRef, hold_id: str, within_s: float) -> tuple[HoldView, int]:
        """The hold and the time; raises HoldNotFoundError."""
        found = await self._find(ref, hold_id, within_s)
        if found.hold is None:
            self.must_trust()
            raise no_such_hold(ref, hold_id)
        return found.hold, found.now_ms

    async def _find(self, ref: TenantRef, hold_id: str, within_s: float) -> Found:
        found = await self._engine.find(ref, hold_id, within_s)
        self._remember(ref, found.account, found.now_ms)
        return found

    def _remember(self, ref: TenantRef, account: Account | None, now_ms: int) -> None:
        self._last_seen_ms = now_ms
        self._accounts[ref] = account
        self._accounts.move_to_end(ref)
        if len(self._accounts) > ACCOUNTS_CACHED:
            self._accounts.popitem(last=False)


def _must_be_amounts(field: str, amounts: Mapping[str, int], policy: Policy) -> None:
    bad = amount_violations(field, amounts, policy)
    if bad:
        raise InvalidRequestError(bad)


__all__ = ["PLANNING_ROUNDS", "HoldOutcome", "QuotaGate"]
