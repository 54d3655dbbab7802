"""Which limits apply to a request, with what amounts and bounds: policy + account + request, no I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from server.domain.account import Account
from server.domain.errors import AccountNotFoundError, InvalidRequestError
from server.domain.hold import HoldNote
from server.domain.limits.balance import Balance
from server.domain.limits.base import Check, Kind, Limit, Look
from server.domain.limits.gate import Gate
from server.domain.operation import Operation, TenantRef
from server.domain.policy import HoldTerms, Policy
from server.domain.pricing import price, total
from server.domain.units import FOREVER_MS, MAX_AMOUNT


class Stateless(NamedTuple):
    """A guard or gate, already judged."""

    limit: Limit
    look: Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything one decision needs, in the policy's order.

    Valid for this account version while valid_from_ms <= now < valid_until_ms. `amounts` is what the decision
    is about; `meters` the part of it that a hold keeps and a settle may report on.
    """

    policy: Policy
    operation: Operation
    account: Account
    valid_from_ms: int
    valid_until_ms: int
    amounts: Mapping[str, int]
    meters: Mapping[str, int]
    guards: tuple[Stateless, ...]
    gates: tuple[Stateless, ...]
    checks: tuple[Check, ...]
    note: HoldNote

    @property
    def terms(self) -> HoldTerms:
        """How long what this action takes is kept."""
        return self.policy.actions[self.operation.action].hold

    @property
    def guarded(self) -> bool:
        """Whether a guard refuses."""
        return any(not guard.look.fits and not guard.limit.shadow for guard in self.guards)

    @property
    def gated(self) -> bool:
        """Whether a gate refuses."""
        return any(not gate.look.fits and not gate.limit.shadow for gate in self.gates)

    @property
    def leaves_hold(self) -> bool:
        """Whether a grant leaves something to settle or give back."""
        return bool(self.meters) or any(check.limit.kind is not Kind.WINDOW and check.take for check in self.checks)

    @property
    def closed(self) -> bool:
        """Whether money stands behind it, so that a store that lost its state must not decide."""
        return any(check.limit.kind is Kind.BALANCE for check in self.checks)


class Source(IntEnum):
    """Where a limit's value came from."""

    POLICY = 1
    PLAN = 2
    OVERRIDE = 3


class Value(NamedTuple):
    """A limit's value for one account: None means unlimited; valid for from_ms <= now < until_ms."""

    value: int | None
    source: Source
    from_ms: int = 0
    until_ms: int = FOREVER_MS


def value_of(limit: Limit, account: Account, now_ms: int) -> Value:
    """The limit's value now. An override stops at exactly its expiry."""
    from_ms = 0
    for override in account.overrides:
        if override.limit_id == limit.id:
            if now_ms < override.expires_at_ms:
                return Value(override.value, Source.OVERRIDE, until_ms=override.expires_at_ms)
            from_ms = max(from_ms, override.expires_at_ms)
    source = Source.POLICY if limit.values.by_plan is None else Source.PLAN
    return Value(limit.values.of(account.plan), source, from_ms=from_ms)


def account_or_default(policy: Policy, ref: TenantRef, account: Account | None) -> Account:
    """The tenant's account, or the policy's default plan for a tenant without one."""
    if account is None:
        if policy.default_plan is None:
            text = f"no account {ref.tenant!r} in policy {policy.name!r}; create it with AdminService.PutAccount"
            raise AccountNotFoundError(text)
        return Account(plan=policy.default_plan)
    if account.plan not in policy.plans:
        text = (
            f"account {ref.tenant!r} is on plan {account.plan!r}, which policy {policy.name!r} lacks; "
            f"it has: {', '.join(policy.plans)}"
        )
        raise AccountNotFoundError(text)
    return account


def make_plan(policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
    """Selects and measures the limits for a validated operation. `now_ms` picks overrides only."""
    amounts = total(operation.amounts, operation.items, policy)
    meters = _kept_meters(policy, operation, amounts)
    from_ms, until_ms = 0, FOREVER_MS
    guards: list[Stateless] = []
    gates: list[Stateless] = []
    checks: list[Check] = []
    for place, limit in enumerate(policy.limits):
        if not limit.applies(operation.action, operation.scope):
            continue
        if isinstance(limit, Gate):
            passes = limit.passes(account, operation.scope)
            gates.append(Stateless(limit, Look(0, 0, 0, -1, 0 if passes else -1)))
            continue
        value = value_of(limit, account, now_ms)
        from_ms, until_ms = max(from_ms, value.from_ms), min(until_ms, value.until_ms)
        if value.value is None and not isinstance(limit, Balance):
            continue
        amount = _amount(policy, limit, amounts)
        if limit.kind is Kind.GUARD:
            bound = value.value or 0
            fits = amount <= bound
            guards.append(Stateless(limit, Look(bound, amount, 0, -1, 0 if fits else -1)))
            continue
        checks.append(
            Check(
                place=place,
                limit=limit,
                scope=_scope_values(limit, operation.scope),
                amount=amount if limit.room is None else limit.room,
                take=amount if limit.room is None else 0,
                cap=MAX_AMOUNT if value.value is None else value.value,
                settles=limit.kind is not Kind.SLOTS and limit.meter in meters,
            )
        )
    return Plan(
        policy=policy,
        operation=operation,
        account=account,
        valid_from_ms=from_ms,
        valid_until_ms=until_ms,
        amounts=amounts,
        meters=meters,
        guards=tuple(guards),
        gates=tuple(gates),
        checks=tuple(checks),
        note=HoldNote(
            action=operation.action,
            policy_version=policy.version,
            scope=operation.scope,
            item_prices={item.id: price(item, policy) for item in operation.items},
        ),
    )


def usage_plan(policy: Policy, operation: Operation, account: Account, now_ms: int) -> Plan:
    """A look at every limit with state whose dimensions are named, for whatever action; asks for nothing."""
    checks: list[Check] = []
    from_ms, until_ms = 0, FOREVER_MS
    for place, limit in enumerate(policy.limits):
        if limit.kind in {Kind.GUARD, Kind.GATE} or any(name not in operation.scope for name in limit.scope):
            continue
        value = value_of(limit, account, now_ms)
        from_ms, until_ms = max(from_ms, value.from_ms), min(until_ms, value.until_ms)
        if value.value is None and not isinstance(limit, Balance):
            continue
        cap = MAX_AMOUNT if value.value is None else value.value
        checks.append(Check(place, limit, _scope_values(limit, operation.scope), 0, 0, cap, settles=False))
    return Plan(
        policy=policy,
        operation=operation,
        account=account,
        valid_from_ms=from_ms,
        valid_until_ms=until_ms,
        amounts={},
        meters={},
        guards=(),
        gates=(),
        checks=tuple(checks),
        note=HoldNote("", policy.version, operation.scope, {}),
    )


def _kept_meters(policy: Policy, operation: Operation, amounts: Mapping[str, int]) -> dict[str, int]:
    """What a hold keeps: all that was named or priced, but neither what each request counts by itself nor what
    items merely measure, unless a limit with state counts it.
    """
    measured = {meter for item in operation.items for meter in item.quantity} - set(operation.amounts)
    counted = {limit.meter for limit in policy.limits if limit.kind not in {Kind.GUARD, Kind.GATE}}
    return {
        meter: amount
        for meter, amount in amounts.items()
        if not policy.meters[meter].per_request and (meter not in measured or meter in counted)
    }


def _amount(policy: Policy, limit: Limit, amounts: Mapping[str, int]) -> int:
    """Units of the limit's meter that the request asks for."""
    if limit.meter in amounts:
        return amounts[limit.meter]
    if limit.kind is Kind.SLOTS:
        return 1
    return policy.meters[limit.meter].per_request


def _scope_values(limit: Limit, scope: Mapping[str, str]) -> tuple[str, ...]:
    missing = [name for name in limit.scope if name not in scope]
    if missing:
        raise InvalidRequestError.of(
            f"scope[{missing[0]}]", f"is required: limit {limit.id!r} is kept per {missing[0]}"
        )
    return tuple(scope[name] for name in limit.scope)
