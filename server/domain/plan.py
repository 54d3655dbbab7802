"""Which limits apply to a request, with what amounts and bounds: policy + account + request, no I/O, no clock."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from server.domain.account import Account
from server.domain.cycle import day_of_month
from server.domain.errors import AccountNotFoundError, InvalidRequestError
from server.domain.hold import HoldNote
from server.domain.limit_value import value_in
from server.domain.limits.balance import Balance, Marks
from server.domain.limits.base import Check, CycleTerms, Kind, Limit, Look, QueueForm
from server.domain.limits.gate import Gate
from server.domain.limits.quota import Quota
from server.domain.limits.slots import Slots
from server.domain.operation import TAKING, Operation, TenantRef, amounts_digest, request_digest
from server.domain.policy import HoldTerms, Policy
from server.domain.pricing import price, total
from server.domain.units import FOREVER_MS, MAX_AMOUNT


class Stateless(NamedTuple):
    """A guard or gate, already judged."""

    limit: Limit
    look: Look


FINGERPRINT: Final = "plan.fingerprint"
"""Where a shape's memo has the constant parts of the fingerprint."""

FIGURES_KEY: Final = "plan.figures_key"
"""Where a shape's memo has its figures key."""

NO_HOLD: Final = HoldTerms()
"""The terms of a look, which leaves no hold."""

ALWAYS_COUNTED: Final = frozenset({Kind.BALANCE, Kind.QUOTA, Kind.COUNT})
"""Kinds that count whether or not there is a limit: money or an allowance stands behind them."""

PLACES: Final = frozenset({Kind.SLOTS, Kind.COUNT})
"""Kinds of which a request takes one place, whatever it reports, unless it asks for more."""


class CheckForm(NamedTuple):
    """A limit with state as it applies to every request of one shape: all of a `Check` but the amount.

    `meter` is the amount's place in the shape's names, or -1 for a `fixed` amount; `asks_room` takes nothing; `forced`
    takes whether it fits or not.
    """

    place: int
    limit: Limit
    scope: tuple[str, ...]
    cap: int
    settles: bool
    meter: int
    fixed: int
    asks_room: bool
    terms: CycleTerms | None = None
    shown: int = 0
    forced: bool = False
    queue: QueueForm | None = None
    marks: Marks = ()

    def check(self, units: Sequence[int]) -> Check:
        """The check of a request with these units, by the shape's names."""
        amount = self.fixed if self.meter < 0 else units[self.meter]
        take = 0 if self.asks_room else amount
        asked = 0 if self.forced else amount
        own = (self.settles, self.terms, self.queue, self.shown, self.marks)
        return Check(self.place, self.limit, self.scope, asked, take, self.cap, *own)


class GuardForm(NamedTuple):
    """A bound on one request; `meter` and `fixed` as in `CheckForm`."""

    limit: Limit
    bound: int
    meter: int
    fixed: int

    def judged(self, units: Sequence[int]) -> "Stateless":
        """The guard's figures for a request with these units."""
        amount = self.fixed if self.meter < 0 else units[self.meter]
        return Stateless(self.limit, Look(self.bound, amount, 0, -1, 0 if amount <= self.bound else -1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """What requests have in common that differ in amounts, id and tenant alone: compiled once, used by all of them.

    For a policy, an account's plan, flags, overrides and first days of cycles, an action, dimensions, and the names of
    the amounts. Valid while valid_from_ms <= now < valid_until_ms. `kept` are the places in `names` of what a hold
    keeps, `terms` for how long it does. `queue` is the one in which a request without a place waits.
    `memo` is for what other layers derive from a shape once, each under its own name.
    """

    policy: Policy
    action: str
    scope: Mapping[str, str]
    names: tuple[str, ...]
    kept: tuple[int, ...]
    valid_from_ms: int
    valid_until_ms: int
    guards: tuple[GuardForm, ...]
    gates: tuple[Stateless, ...]
    checks: tuple[CheckForm, ...]
    gated: bool
    closed: bool
    terms: HoldTerms = NO_HOLD
    queue: QueueForm | None = None
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def forced(self) -> bool:
        """Whether its plans take without asking whether they fit."""
        return any(check.forced for check in self.checks)

    @property
    def figures_key(self) -> bytes:
        """Four bytes that are equal while stored figures of a grant mean the same: policy, limits, and their values."""
        key: bytes | None = self.memo.get(FIGURES_KEY)
        if key is None:
            content = (
                self.policy.version,
                [(check.place, check.scope, check.cap, check.queue or check.terms) for check in self.checks],
            )
            key = self.memo[FIGURES_KEY] = zlib.crc32(repr(content).encode()).to_bytes(4, "big")
        return key


class Plan(NamedTuple):
    """Everything one decision needs: the shape of the request, and what is the request's own.

    `units` are the amounts that the decision is about, by the shape's names. The plan holds for the account's
    version and the shape's span of time.
    """

    shape: Shape
    operation: Operation
    account: Account
    units: tuple[int, ...]

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return self.shape.policy

    @property
    def valid_from_ms(self) -> int:
        """The first instant for which the plan holds."""
        return self.shape.valid_from_ms

    @property
    def valid_until_ms(self) -> int:
        """The first instant for which it no longer holds."""
        return self.shape.valid_until_ms

    @property
    def amounts(self) -> dict[str, int]:
        """What the decision is about, by meter."""
        return dict(zip(self.shape.names, self.units, strict=True))

    @property
    def meters(self) -> dict[str, int]:
        """The part of the amounts that a hold keeps and a settle may report on."""
        names, units = self.shape.names, self.units
        return {names[place]: units[place] for place in self.shape.kept}

    @property
    def guards(self) -> tuple[Stateless, ...]:
        """The guards, judged."""
        return tuple(guard.judged(self.units) for guard in self.shape.guards)

    @property
    def gates(self) -> tuple[Stateless, ...]:
        """The gates, judged."""
        return self.shape.gates

    @property
    def checks(self) -> tuple[Check, ...]:
        """The limits with state, measured, in the policy's order."""
        return tuple(form.check(self.units) for form in self.shape.checks)

    @property
    def fingerprint(self) -> bytes:
        """The operation's fingerprint; what its shape has in common is digested once."""
        if self.operation.items or self.operation.has_mode:
            return self.operation.fingerprint()
        memo, names = self.shape.memo, self.shape.names
        known = memo.get(FINGERPRINT)
        if known is None:
            order = sorted(range(len(names)), key=names.__getitem__)
            digest = request_digest(self.shape.action, self.shape.scope)
            known = memo[FINGERPRINT] = digest, tuple(names[at] for at in order), order
        digest, in_order, order = known
        return digest + amounts_digest(in_order, tuple([self.units[at] for at in order])) + TAKING

    @property
    def note(self) -> HoldNote:
        """What a hold remembers of the request."""
        shape = self.shape
        prices = {item.id: price(item, self.operation, shape.policy) for item in self.operation.items}
        timed_ms = self.terms.longest_ms if self.terms.timed is not None else 0
        return HoldNote(shape.action, shape.policy.version, shape.scope, prices, timed_ms)

    @property
    def terms(self) -> HoldTerms:
        """How long what this action takes is kept; where its time is paid, no longer than was asked for."""
        terms = self.shape.terms
        if terms.timed is None:
            return terms
        return replace(terms, longest_ms=min(self.amounts.get(terms.timed.by, terms.longest_ms), terms.longest_ms))

    @property
    def guarded(self) -> bool:
        """Whether a guard refuses."""
        return bool(self.shape.guards) and any(not guard.look.fits and not guard.limit.shadow for guard in self.guards)

    @property
    def gated(self) -> bool:
        """Whether a gate refuses."""
        return self.shape.gated

    @property
    def leaves_hold(self) -> bool:
        """Whether a grant leaves something to settle or give back."""
        return bool(self.shape.kept) or any(c.limit.kind is not Kind.WINDOW and c.take for c in self.checks)

    @property
    def closed(self) -> bool:
        """Whether money or an allowance stands behind it, so that a store that lost its state must not decide."""
        return self.shape.closed


def forced(plan: Plan) -> Plan:
    """The plan of what has happened already: it takes what the given one would, whether it fits or not."""
    shape = plan.shape
    checks = tuple(check._replace(forced=True) for check in shape.checks)
    return plan._replace(shape=replace(shape, checks=checks, guards=(), gates=(), gated=False, memo={}))


def account_or_default(policy: Policy, ref: TenantRef, account: Account | None, now_ms: int) -> Account:
    """The tenant's account, or the policy's default plan for a tenant without one; on its tier where there are any."""
    if account is None:
        if policy.default_plan is None:
            text = f"no account {ref.tenant!r} in policy {policy.name!r}; create it with AdminService.PutAccount"
            raise AccountNotFoundError(text)
        return Account(plan=policy.default_plan)
    if policy.tiers is not None and not account.plan:
        return account.on(policy.tiers.of(account, now_ms).plan)
    if account.plan not in policy.plans:
        text = (
            f"account {ref.tenant!r} is on plan {account.plan!r}, which policy {policy.name!r} lacks; "
            f"it has: {', '.join(policy.plans)}"
        )
        raise AccountNotFoundError(text)
    return account


def make_plan(policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
    """Selects and measures the limits for a validated operation. `now_ms` picks overrides only."""
    amounts = total(operation, policy)
    shape = make_shape(policy, operation, tuple(amounts), account, now_ms)
    return Plan(shape, operation, account, tuple(amounts.values()))


def make_shape(policy: Policy, operation: Operation, names: tuple[str, ...], account: Account, now_ms: int) -> Shape:
    """What all requests share that differ from the operation in amounts alone."""
    measured = {meter for item in operation.items for meter in item.quantity} - set(operation.amounts)
    kept = _kept_meters(policy, names, measured)
    from_ms, until_ms = plan_span(policy, account, now_ms)
    guards: list[GuardForm] = []
    gates: list[Stateless] = []
    checks: list[CheckForm] = []
    for place, limit in enumerate(policy.limits):
        if not limit.applies(operation.action, operation.scope) or account.flags.get(limit.unless):
            continue
        if isinstance(limit, Gate):
            passes = limit.passes(account, operation.scope)
            gates.append(Stateless(limit, Look(0, 0, 0, -1, 0 if passes else -1)))
            continue
        value = value_in(policy, limit, account, now_ms)
        from_ms, until_ms = max(from_ms, value.from_ms), min(until_ms, value.until_ms)
        if value.value is None and limit.kind not in ALWAYS_COUNTED:
            continue
        terms = terms_of(limit, account, now_ms)
        if terms is not None:
            from_ms, until_ms = max(from_ms, terms.start_ms), min(until_ms, terms.end_ms)
        meter, fixed = _amount(policy, limit, names)
        room = limit.room.get(operation.action)
        if limit.kind is Kind.GUARD:
            guards.append(GuardForm(limit, value.value or 0, meter, fixed))
            continue
        checks.append(
            CheckForm(
                place=place,
                limit=limit,
                scope=_scope_values(limit, operation.scope),
                cap=cap_of(limit, value.value, terms),
                settles=limit.kind not in PLACES and limit.meter in kept,
                meter=meter if room is None else -1,
                fixed=fixed if room is None else room,
                asks_room=room is not None,
                terms=terms,
                queue=limit.queue_form(account.plan, value.value) if isinstance(limit, Slots) else None,
                shown=cap_of(limit, value.value, None),
                marks=limit.marks(account.plan) if isinstance(limit, Balance) else (),
            )
        )
    return Shape(
        policy=policy,
        action=operation.action,
        scope=operation.scope,
        names=names,
        kept=tuple(place for place, name in enumerate(names) if name in kept),
        valid_from_ms=from_ms,
        valid_until_ms=until_ms,
        guards=tuple(guards),
        gates=tuple(gates),
        checks=tuple(checks),
        gated=any(not gate.look.fits and not gate.limit.shadow for gate in gates),
        closed=any(form.limit.is_closed for form in checks),
        terms=policy.actions[operation.action].hold,
        queue=next((form.queue for form in checks if form.queue is not None), None),
    )


def usage_plan(policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
    """A look at every limit with state whose dimensions are named, for whatever action; asks for nothing."""
    checks: list[CheckForm] = []
    from_ms, until_ms = plan_span(policy, account, now_ms)
    for place, limit in enumerate(policy.limits):
        if limit.kind in {Kind.GUARD, Kind.GATE} or any(name not in operation.scope for name in limit.scope):
            continue
        value = value_in(policy, limit, account, now_ms)
        from_ms, until_ms = max(from_ms, value.from_ms), min(until_ms, value.until_ms)
        if value.value is None and limit.kind not in ALWAYS_COUNTED:
            continue
        terms = terms_of(limit, account, now_ms)
        if terms is not None:
            from_ms, until_ms = max(from_ms, terms.start_ms), min(until_ms, terms.end_ms)
        form = bare_form(limit, _scope_values(limit, operation.scope), value.value, terms, place)
        queue = limit.queue_form(account.plan, value.value) if isinstance(limit, Slots) else None
        checks.append(form._replace(queue=queue))
    shape = Shape(
        policy=policy,
        action=operation.action,
        scope=operation.scope,
        names=(),
        kept=(),
        valid_from_ms=from_ms,
        valid_until_ms=until_ms,
        guards=(),
        gates=(),
        checks=tuple(checks),
        gated=False,
        closed=any(form.limit.is_closed for form in checks),
    )
    return Plan(shape, operation, account, ())


def plan_span(policy: Policy, account: Account, now_ms: int) -> tuple[int, int]:
    """From when to when (exclusive) the account's plan is the one that it has at `now_ms`."""
    if policy.tiers is None or account.tier_override is None:
        return 0, FOREVER_MS
    tier = policy.tiers.of(account, now_ms)
    return tier.from_ms, tier.until_ms


def cap_of(limit: Limit, value: int | None, terms: CycleTerms | None) -> int:
    """A limit's value as a bound: as people read it, or with `terms` in the unit that its cells are kept in."""
    if value is None:
        return MAX_AMOUNT
    return limit.cap(value, terms) if isinstance(limit, Quota) and terms is not None else value


def bare_form(
    limit: Limit, scope: tuple[str, ...], value: int | None, terms: CycleTerms | None, place: int = 0
) -> CheckForm:
    """A limit's cell with its bound, asked for nothing."""
    cap, shown = cap_of(limit, value, terms), cap_of(limit, value, None)
    form = CheckForm(place, limit, scope, cap, settles=False, meter=-1, fixed=0, asks_room=False, terms=terms)
    return form._replace(shown=shown)


def cycle_anchors(policy: Policy, account: Account) -> tuple[int, ...]:
    """The days of the month on which the account's cycles begin: all that a shape knows of its creation date."""
    return tuple([day_of_month(account.created_at_ms, zone) for zone in policy.anchor_zones])


def terms_of(limit: Limit, account: Account, now_ms: int) -> CycleTerms | None:
    """A quota's cycle at `now_ms` and what it allows the account beyond its limit; None for other kinds."""
    return limit.terms(account, now_ms) if isinstance(limit, Quota) else None


def _kept_meters(policy: Policy, names: tuple[str, ...], measured: set[str]) -> frozenset[str]:
    """What a hold keeps: all that was named or priced, but neither what each request counts by itself nor what
    items merely measure, unless a limit with state counts it.
    """
    counted = {limit.meter for limit in policy.limits if limit.kind not in {Kind.GUARD, Kind.GATE}}
    return frozenset(
        name for name in names if not policy.meters[name].per_request and (name not in measured or name in counted)
    )


def _amount(policy: Policy, limit: Limit, names: tuple[str, ...]) -> tuple[int, int]:
    """Where the units of the limit's meter come from: their place among the names, or -1 and a fixed amount."""
    if limit.meter in names:
        return names.index(limit.meter), 0
    return -1, 1 if limit.kind in PLACES else policy.meters[limit.meter].per_request


def _scope_values(limit: Limit, scope: Mapping[str, str]) -> tuple[str, ...]:
    missing = [name for name in limit.scope if name not in scope]
    if missing:
        description = f"is required: limit {limit.id!r} is kept per {missing[0]}"
        raise InvalidRequestError.of(f"scope[{missing[0]}]", description)
    return tuple(scope[name] for name in limit.scope)
