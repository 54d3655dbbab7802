"""The use cases of operators' hands: reset a limit, adjust one, and read who did what."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from server.accounting import Accounting, fingerprint, page_of
from server.domain.account import Account
from server.domain.act import Act, AuditLine, Deed, Word, reason_violations
from server.domain.errors import AccountChangedError, FieldViolation, InvalidRequestError
from server.domain.limit_value import value_of
from server.domain.limits import Balance, Kind, Limit, Quota, Window
from server.domain.operation import TenantRef, text_violations, unknown
from server.domain.plan import CheckForm, account_or_default, bare_form, terms_of
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import Engine
from server.engine.books import Outdated
from server.engine.hands import Adjusted, Adjustment, Deletion, Reset, WasReset
from server.gate import QuotaGate
from server.imports import cell_violations

ROUNDS: Final = 4
"""Times that an act is prepared anew when the account changed meanwhile."""

PLACE: Final = re.compile(r"(?:[0-9]{1,5}/)?(?:[0-9]{1,15}(?:-[0-9]{1,15})?)?", re.ASCII)
"""How tokens of the audit trail are written: a slot, where all tenants are listed, and the id of a line."""

DELETING: Final = re.compile(r"again|\??[0-9]{1,20}|", re.ASCII)
"""How tokens of a deletion are written: as the engine's places."""

INSTEAD: Final[Mapping[Kind, str]] = {
    Kind.SLOTS: "its places are those of open holds: end these with ForceRelease (`holdgate release`)",
    Kind.COUNT: "it counts what stands: give allocations back with ReleaseAllocation",
    Kind.BALANCE: "it is money: change it with AdjustLimit (`holdgate adjust`)",
    Kind.GUARD: "it keeps no state",
    Kind.GATE: "it keeps no state: change the account with PutAccount",
}
"""What to do where there is nothing to forget."""

_Answer = TypeVar("_Answer")


class Change(NamedTuple):
    """Units that are added (below 0: taken off), or, with `sets`, what is used from now on."""

    units: int
    sets: bool


class Operators:
    """One per process, of the administration."""

    def __init__(self, engine: Engine, gate: QuotaGate, accounting: Accounting) -> None:
        self._engine = engine
        self._gate = gate
        self._accounting = accounting

    async def reset(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, limit_id: str, scope: Mapping[str, str], *, reset_id: str, word: Word, within_s: float
    ) -> WasReset:
        """Forgets what a window or quota has counted, once per id; without a scope, in every cell of a quota."""
        policy, ref = self._gate.resolve(ref)
        bad = text_violations("reset_id", reset_id, required=True) + reason_violations(word.why, required=True)
        limit = _limit_of(policy, limit_id, bad)
        if limit is not None and not isinstance(limit, Window | Quota):
            kind = limit.kind.name.lower()
            bad.append(FieldViolation("limit_id", f"{kind} {limit.id!r} cannot be reset: {INSTEAD[limit.kind]}"))
        every = isinstance(limit, Quota) and bool(limit.scope) and not scope
        if limit is not None and not bad and not every:
            bad += cell_violations("scope", scope, limit)
        if bad or limit is None:
            raise InvalidRequestError(bad)
        values = tuple(scope.get(name, "") for name in limit.scope)
        target = f"{limit.id} of every {', '.join(limit.scope)}" if every else _target(limit, scope)
        act = Act(Deed.RESET, word.who, word.why, target, f"reset/{reset_id}")
        mark = fingerprint([limit.cell, every, *values])

        async def attempt(account: Account, now_ms: int, left_s: float) -> WasReset | Outdated:
            reset = Reset(_form(limit, values, account, now_ms), account.version, every)
            return await self._engine.hands.reset(ref, reset, act, mark, left_s)

        return await self._done(policy, ref, attempt, within_s)

    async def adjust(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        limit_id: str,
        scope: Mapping[str, str],
        change: Change | None,
        *,
        adjustment_id: str,
        word: Word,
        within_s: float,
    ) -> Adjusted:
        """Changes a quota's use in its current cycle, or a balance, once per id."""
        policy, ref = self._gate.resolve(ref)
        bad = text_violations("adjustment_id", adjustment_id, required=True)
        bad += reason_violations(word.why, required=True)
        limit = _limit_of(policy, limit_id, bad)
        if limit is not None:
            bad += _change_violations(limit, change) or cell_violations("scope", scope, limit)
        if bad or limit is None or change is None:
            raise InvalidRequestError(bad)
        values = tuple(scope.get(name, "") for name in limit.scope)
        act = Act(Deed.ADJUST, word.who, word.why, _target(limit, scope), f"adjust/{adjustment_id}")
        mark = fingerprint([limit.cell, *change, *values])
        if isinstance(limit, Balance):
            await self._accounting.account(ref, within_s)

        async def attempt(account: Account, now_ms: int, left_s: float) -> Adjusted | Outdated:
            form = _form(limit, values, account, now_ms)
            return await self._engine.hands.adjust(ref, Adjustment(form, account.version, *change), act, mark, left_s)

        return await self._done(policy, ref, attempt, within_s)

    async def delete(self, ref: TenantRef, word: Word, *, force: bool, page_token: str, within_s: float) -> Deletion:
        """Deletes a tenant, or goes on with that: as far as this call comes."""
        _, ref = self._gate.resolve(ref)
        bad = reason_violations(word.why, required=True)
        if not DELETING.fullmatch(page_token):
            bad.append(FieldViolation("page_token", "is not a token that DeleteTenant gave; start without one"))
        if bad:
            raise InvalidRequestError(bad)
        self._gate.must_trust()
        act = Act(Deed.DELETE, word.who, word.why)
        deletion = await self._engine.hands.delete(ref, act, forced=force, place=page_token, within_s=within_s)
        self._gate.forget(ref)
        return deletion

    async def audit(
        self, ref: TenantRef, page_size: int, page_token: str, *, within_s: float
    ) -> tuple[Sequence[AuditLine], str]:
        """A page of what was done to a tenant, be it gone, or with an empty name to all of a policy's; and the token of
        the next page.
        """
        _, ref = self._gate.resolve(ref, every=True)
        count = page_of(page_size)
        if not PLACE.fullmatch(page_token) or (ref.tenant and "/" in page_token):
            raise InvalidRequestError.of("page_token", "is not a token that ListAudit gave; start without one")
        self._gate.must_trust()
        return await self._engine.hands.acts(ref, page_token, count, within_s)

    async def _done(
        self,
        policy: Policy,
        ref: TenantRef,
        attempt: Callable[[Account, int, float], Awaitable[_Answer | Outdated]],
        within_s: float,
    ) -> _Answer:
        """Does what depends on the account and its cycles, again where these have moved on meanwhile."""
        self._gate.must_trust()
        found = await self._engine.find(ref, "", within_s)
        account, now_ms = found.account, found.now_ms
        for _ in range(ROUNDS):
            answer = await attempt(account_or_default(policy, ref, account, now_ms), now_ms, within_s)
            if not isinstance(answer, Outdated):
                return answer
            account, now_ms = answer.account, answer.now_ms
        raise AccountChangedError(f"account {ref.tenant!r} changed {ROUNDS} times meanwhile; send it again")


def account_act(word: Word, stored: Account | None, record: Account) -> Act | None:
    """What the audit trail tells of an account's write: the fields that changed, as JSON. Nothing of a creation without
    a reason: programs that sign tenants up would fill the trail.
    """
    if stored is None and not word.why:
        return None
    after = _shown(record)
    before = _shown(stored) if stored is not None else {}
    changed = [name for name, value in after.items() if before.get(name) != value]
    old = {name: before[name] for name in changed if name in before}
    texts = [
        orjson.dumps(fields).decode() if fields else "" for fields in (old, {name: after[name] for name in changed})
    ]
    return Act(Deed.ACCOUNT, word.who, word.why, before=texts[0], after=texts[1])


def _shown(account: Account) -> dict[str, Any]:
    tier = account.tier_override
    return {
        "plan": account.plan,
        "created_at_ms": account.created_at_ms,
        "flags": dict(sorted(account.flags.items())),
        "overrides": [[each.limit_id, each.value, each.expires_at_ms] for each in account.overrides],
        "lifetime_purchased_usd_micros": account.lifetime_purchased_usd_micros,
        "tier_override": [tier.plan, tier.expires_at_ms] if tier is not None else None,
        "version": account.version,
    }


def _form(limit: Limit, values: tuple[str, ...], account: Account, now_ms: int) -> CheckForm:
    """The limit's cell as it stands for the account, asked for nothing."""
    form = bare_form(limit, values, value_of(limit, account, now_ms).value, terms_of(limit, account, now_ms))
    return form._replace(marks=limit.marks(account.plan)) if isinstance(limit, Balance) else form


def _limit_of(policy: Policy, limit_id: str, bad: list[FieldViolation]) -> Limit | None:
    limits = {limit.id: limit for limit in policy.limits}
    if limit_id not in limits:
        bad.append(unknown("limit_id", limit_id, policy.name, "limit", limits))
    return limits.get(limit_id)


def _target(limit: Limit, scope: Mapping[str, str]) -> str:
    return " ".join([limit.id, *(f"{name}={scope[name]}" for name in limit.scope)])


def _change_violations(limit: Limit, change: Change | None) -> list[FieldViolation]:
    if not isinstance(limit, Quota | Balance):
        text = f"{limit.kind.name.lower()} {limit.id!r} cannot be adjusted; quotas and balances can"
        return [FieldViolation("limit_id", text)]
    if change is None:
        return [FieldViolation("change", "is required: add, or of a quota set_to")]
    if change.sets and isinstance(limit, Balance):
        return [FieldViolation("set_to", f"is for quotas; balance {limit.id!r} moves while you look: add an amount")]
    lowest = 0 if change.sets else -MAX_AMOUNT
    if not lowest <= change.units <= MAX_AMOUNT:
        bounds = "0" if change.sets else "-(2^53 - 1)"
        field = "set_to" if change.sets else "add"
        return [FieldViolation(field, f"is {change.units}; must be from {bounds} to 2^53 - 1")]
    return []
