"""The use cases of the data plane: plan, ask the engine, word the answer. Knows neither gRPC nor Redis."""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Final, TypeVar

from server.domain import timed as timing
from server.domain.account import Account
from server.domain.decision import Decision, Lease, LimitResults, grant, refuse
from server.domain.errors import (
    AccountChangedError,
    FieldViolation,
    HoldNotFoundError,
    InvalidRequestError,
    StoreLostError,
    StoreUnavailableError,
)
from server.domain.hold import Delivered, HoldNote, HoldView, State
from server.domain.limits import Gate, Kind
from server.domain.operation import (
    Operation,
    TenantRef,
    amount_violations,
    differing_parts,
    scope_violations,
    text_violations,
    unknown,
)
from server.domain.plan import (
    ALWAYS_COUNTED,
    Plan,
    Source,
    account_or_default,
    make_plan,
    terms_of,
    usage_plan,
    value_of,
)
from server.domain.policy import Policy
from server.domain.pricing import price
from server.engine.base import (
    Engine,
    Extended,
    Found,
    Granted,
    HoldOutcome,
    Looked,
    Overtaken,
    Refused,
    Replayed,
    Stale,
)
from server.engine.faults import id_reused, no_such_hold
from server.forms import Forms, Planner
from server.policy.store import PolicyStore
from server.views import EffectiveLimit, LimitsView, UsageView, quota_views

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
        self._last_seen_ms = 0

    def resolve(self, ref: TenantRef) -> tuple[Policy, TenantRef]:
        """The policy that a caller named, or the only one, with the tenant's full name."""
        policy = self._policies.get(ref.policy)
        bad = text_violations("tenant", ref.tenant, required=True)
        if bad:
            raise InvalidRequestError(bad)
        return policy, TenantRef(policy.name, ref.tenant)

    def policy(self, name: str) -> Policy:
        """The policy of that name, or the only one; raises InvalidRequestError."""
        return self._policies.get(name)

    async def hold(self, ref: TenantRef, hold_id: str, *, within_s: float) -> HoldView:
        """A hold as stored; raises HoldNotFoundError."""
        _, ref = self._held(ref, hold_id)
        return (await self._must_find(ref, hold_id, within_s))[0]

    async def check_and_reserve(self, operation: Operation, *, within_s: float) -> Decision:
        """Takes everything that the operation needs, or nothing."""
        policy, operation, planner = self._prepared(operation)
        hold_id = operation.request_id

        async def attempt(plan: Plan, left_s: float) -> Decision | Stale:
            self._must_trust_for(plan)
            if plan.guarded:
                return await self._guarded(plan, hold_id, left_s)
            if operation.check_only:
                answer: Looked | Stale = await self._engine.look(plan, left_s)
                return answer if isinstance(answer, Stale) else _would(plan, answer)
            named = hold_id or (secrets.token_hex(16) if plan.leaves_hold else "")
            match await self._engine.reserve(plan, named, left_s):
                case Stale() as stale:
                    return stale
                case Granted(now_ms, looks, lease_ends_at_ms, degraded):
                    lease = _lease(named, lease_ends_at_ms, now_ms, plan.terms.lease_ms)
                    return grant(plan, looks, lease, degraded=degraded)
                case Refused(_, looks):
                    return refuse(plan, looks)
                case Replayed() as known:
                    return _replayed(plan, known)

        return await self._planned(policy, operation, attempt, within_s, planner)

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
            if policy.catalog is not None:
                scope = policy.catalog.resolved(scope)
            _must_be_scope(scope, found.hold)
            within_s -= monotonic() - started_s
        if delivered is None and final and policy.is_timed:
            hold, now_ms = await self._must_find(ref, hold_id, within_s)
            if (timed := timing.terms_of(policy, hold)) is not None:
                delivered = timing.use_of(hold, timed, now_ms, hold.note.started_at_ms)
        if allocation and (bad := text_violations("allocation", allocation)):
            raise InvalidRequestError(bad)
        return await self._known(
            self._engine.settle(ref, hold_id, delivered, final=final, within_s=within_s, allocation=allocation)
        )

    async def release(self, ref: TenantRef, hold_id: str, *, within_s: float) -> HoldOutcome:
        """Gives back what no report has charged and ends the hold."""
        _, ref = self._held(ref, hold_id)
        return await self._known(self._engine.release(ref, hold_id, within_s))

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
        operation = _operation_of(ref, hold.note, amounts, policy)
        timed = timing.terms_of(policy, hold)
        if timed is None and connection:
            raise InvalidRequestError.of("connection", f"hold {hold_id!r} has no time that a connection would start")

        async def attempt(plan: Plan, left_s: float) -> Decision | Stale:
            nonlocal hold, now_ms
            self._must_trust_for(plan)
            start, reports = timing.contact(hold, timed, connection, now_ms) if timed is not None else (None, {})
            raised = plan if amounts else None
            answer = await self._engine.extend(ref, hold_id, {**used, **reports}, raised, left_s, start=start)
            if isinstance(answer, Overtaken):
                hold, now_ms = await self._must_find(ref, hold_id, left_s)
                return Stale(now_ms, self._accounts.get(ref))
            return answer if isinstance(answer, Stale) else _extended(plan, answer)

        return await self._planned(policy, operation, attempt, within_s - (monotonic() - started_s))

    async def estimate(
        self, operation: Operation, *, within_s: float
    ) -> tuple[Decision, tuple[tuple[str, Mapping[str, int]], ...]]:
        """What the operation would be answered now, and the price of each item."""
        policy, operation, planner = self._prepared(operation)

        async def attempt(plan: Plan, left_s: float) -> Decision | Stale:
            self._must_trust_for(plan)
            answer = await self._engine.look(plan, left_s)
            return answer if isinstance(answer, Stale) else _would(plan, answer)

        decision = await self._planned(policy, operation, attempt, within_s, planner)
        return decision, tuple((item.id, price(item, operation, policy)) for item in operation.items)

    async def usage(self, ref: TenantRef, scope: Mapping[str, str], *, within_s: float) -> UsageView:
        """Current figures of every limit whose dimensions are named."""
        policy, ref = self.resolve(ref)
        bad = scope_violations(scope, policy)
        if bad:
            raise InvalidRequestError(bad)
        if policy.catalog is not None:
            scope = policy.catalog.resolved(scope)
        operation = Operation(ref=ref, action="", scope=scope)

        async def attempt(plan: Plan, left_s: float) -> UsageView | Stale:
            self._must_trust_for(plan)
            answer = await self._engine.cycles(plan, left_s)
            if isinstance(answer, Stale):
                return answer
            return UsageView(LimitResults(plan, answer.looks), policy.version, quota_views(plan, answer))

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
                    (value := value_of(limit, account, found.now_ms)).value is not None
                    or limit.kind in {*ALWAYS_COUNTED, Kind.GATE}
                )
            ),
            products=tuple(policy.products.values()),
            policy_version=policy.version,
            totals=_totals(policy, account, found.now_ms),
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
            return _replayed(plan, Replayed(found.now_ms, found.hold, ()))
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


def _totals(policy: Policy, account: Account, now_ms: int) -> dict[str, int]:
    """The figures for show: of each, the largest value of its limits."""
    limits = {limit.id: limit for limit in policy.limits}
    return {
        name: max(value_of(limits[each], account, now_ms).value or 0 for each in of)
        for name, of in policy.totals.items()
    }


def _must_be_amounts(field: str, amounts: Mapping[str, int], policy: Policy) -> None:
    bad = amount_violations(field, amounts, policy)
    if bad:
        raise InvalidRequestError(bad)


def _must_be_scope(scope: Mapping[str, str], hold: HoldView | None) -> None:
    """Raises where a caller takes a hold for another one's; a hold that is not there is the engine's to tell."""
    if hold is None:
        return
    made = {name: hold.note.scope.get(name, "") for name in scope}
    bad = [
        FieldViolation(f"scope[{name}]", f"is {value!r}; hold {hold.hold_id!r} was made with {made[name]!r}")
        for name, value in scope.items()
        if made[name] != value
    ]
    if bad:
        raise InvalidRequestError(bad)


def _lease(hold_id: str, lease_ends_at_ms: int, now_ms: int, lease_ms: int) -> Lease | None:
    """The hold as its caller sees it; to be renewed after a third of the lease."""
    if not hold_id:
        return None
    if not lease_ends_at_ms:
        return Lease(hold_id=hold_id)
    expires_in_ms = max(lease_ends_at_ms - now_ms, 0)
    return Lease(hold_id=hold_id, expires_in_ms=expires_in_ms, renew_after_ms=min(lease_ms // 3, expires_in_ms))


def _would(plan: Plan, looked: Looked) -> Decision:
    """What the plan would be answered, from figures that took nothing."""
    blocked = any(not look.fits and not c.limit.shadow for c, look in zip(plan.checks, looked.looks, strict=True))
    if plan.guarded or plan.gated or blocked:
        return refuse(plan, looked.looks)
    return grant(plan, looked.looks, None)


def _replayed(plan: Plan, known: Replayed) -> Decision:
    """The first answer again, if the content is equal."""
    now_ms, hold, looks, degraded = known
    differs = differing_parts(hold.fingerprint, plan.operation.fingerprint())
    if differs:
        raise id_reused(hold.hold_id, differs)
    live = hold.lease_ends_at_ms if hold.state is State.ACTIVE else 0
    lease = _lease(hold.hold_id, live, now_ms, hold.lease_ms)
    if plan.operation.flexible is None:
        return grant(plan, looks, lease, replayed=True, degraded=degraded)
    reserved = {meter: totals.reserved for meter, totals in hold.meters.items()}
    return grant(plan, (), lease, replayed=True, degraded=degraded).having(reserved, lease)


def _extended(plan: Plan, answer: Extended) -> Decision:
    reserved = {meter: totals.reserved for meter, totals in answer.hold.meters.items()}
    lease = _lease(answer.hold.hold_id, answer.hold.lease_ends_at_ms, answer.now_ms, answer.hold.lease_ms)
    if answer.raised:
        return grant(plan, answer.looks, lease, degraded=answer.degraded).having(reserved, lease)
    if not plan.guarded:  # a guard bounds the total; what else blocks, lacks room for the difference
        named = zip(plan.shape.names, plan.units, strict=True)
        plan = plan._replace(units=tuple(max(units - reserved.get(meter, 0), 0) for meter, units in named))
    return refuse(plan, answer.looks).having(reserved, lease)


def _operation_of(ref: TenantRef, note: HoldNote, amounts: Mapping[str, int], policy: Policy) -> Operation:
    """The request of a hold with new totals."""
    if note.action not in policy.actions:
        message = f"the hold's action {note.action!r} is no longer in policy {policy.name!r}"
        raise InvalidRequestError.of("hold_id", message)
    return Operation(ref=ref, action=note.action, scope=note.scope, amounts=amounts)


__all__ = ["EffectiveLimit", "Gate", "HoldOutcome", "LimitsView", "QuotaGate", "Source", "UsageView"]
