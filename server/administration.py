"""The use cases of the control plane: accounts, imports, holds, policies. Money is `accounting`'s, what people are to
be told `notices`'s, and what operators do by hand `operators`'s.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from server.accounting import Accounting, balances_of, cells_of, fingerprint, page_of
from server.domain.account import Account
from server.domain.act import NOBODY, Act, Deed, Word, reason_violations
from server.domain.allowances import next_change_ms
from server.domain.errors import (
    AccountChangedError,
    FieldViolation,
    HoldgateError,
    InvalidRequestError,
    PolicyRejectedError,
    StoreUnavailableError,
)
from server.domain.hold import HoldView
from server.domain.ledger import Cause
from server.domain.limits import Balance
from server.domain.operation import TenantRef, amount_violations, text_violations, unknown
from server.domain.plan import account_or_default
from server.domain.policy import Policy
from server.domain.refill import refills_of
from server.domain.units import MAX_AMOUNT
from server.engine.base import AccountWrite, Conflict, Engine, HoldOutcome
from server.engine.faults import no_such_hold
from server.gate import QuotaGate
from server.imports import ImportedAllocation, ImportedUsage, imported_allocations, imported_uses
from server.metering import Metering
from server.notices import Notices
from server.operators import Operators, account_act
from server.policy.store import PolicyStore

_PLACE: Final = re.compile(r"([0-9]{1,16})/(.*)", re.ASCII | re.DOTALL)
"""How tokens of ListHolds are written: a lease's end, and a hold."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One account to bring in from another system."""

    ref: TenantRef
    account: Account
    import_id: str
    balances: Mapping[str, int]
    usage: Sequence[ImportedUsage] = ()
    allocations: Sequence[ImportedAllocation] = ()


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What one row came to; `error` is empty where it went well."""

    tenant: str
    applied: bool
    error: str


class Administration:
    """One per process, beside the gate, whose cached accounts it keeps fresh."""

    def __init__(self, policies: PolicyStore, engine: Engine, gate: QuotaGate) -> None:
        self._policies = policies
        self._engine = engine
        self._gate = gate
        self.accounting = Accounting(engine, gate)
        self.metering = Metering(engine, gate)
        self.notices = Notices(engine, gate)
        self.operators = Operators(engine, gate, self.accounting)

    async def put_account(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        account: Account,
        *,
        expected_version: int,
        opening: Mapping[str, int],
        word: Word = NOBODY,
        within_s: float,
    ) -> Account:
        """Creates (version 0) or replaces an account; a repeat of the very same write is answered as the first."""
        policy, ref = self._gate.resolve(ref)
        if bad := reason_violations(word.why):
            raise InvalidRequestError(bad)
        _must_fit(account, policy, opening=opening)
        self._gate.must_trust()
        found = await self._engine.find(ref, "", within_s)
        stored = found.account
        record = replace(
            account,
            created_at_ms=account.created_at_ms or (stored.created_at_ms if stored else found.now_ms),
            lifetime_purchased_usd_micros=(
                stored.lifetime_purchased_usd_micros
                if stored and expected_version
                else account.lifetime_purchased_usd_micros
            ),
            version=expected_version + 1,
        )
        plan = account_or_default(policy, ref, record, found.now_ms).plan
        given = cells_of(policy, "opening", _opening(policy, plan, opening))
        write = AccountWrite(
            account=record,
            expected_version=expected_version,
            grants={} if expected_version else given,
            balances=balances_of(policy),
            refills=refills_of(policy, record, found.now_ms),
            raises=stored is not None and _is_upgrade(policy, stored, record),
            limits_ms=next_change_ms(policy, record, found.now_ms),
            act=account_act(word, stored, record),
        )
        answer = await self._engine.write_account(ref, write, within_s)
        self._gate.forget(ref)
        if isinstance(answer, Conflict) and answer.account != record:
            version = answer.account.version if answer.account is not None else 0
            message = (
                f"account {ref.tenant!r} is at version {version}, not {expected_version}; "
                "read it with GetAccount and write again"
            )
            raise AccountChangedError(message, {"expected_version": str(expected_version), "version": str(version)})
        if expected_version:
            with suppress(StoreUnavailableError):  # the account is written; the next report looks, too
                await self._engine.books.note_thresholds(ref, within_s)
        return record

    async def get_account(self, ref: TenantRef, *, within_s: float) -> Account:
        """The stored account."""
        _, ref = self._gate.resolve(ref)
        return await self.accounting.account(ref, within_s)

    async def import_balances(self, rows: Sequence[ImportRow], *, within_s: float) -> Sequence[ImportResult]:
        """Brings accounts in, each as if alone; a row that was brought in before changes nothing."""
        self._gate.must_trust()
        results: list[ImportResult] = []
        for row in rows:
            try:
                applied = await self._import(row, within_s)
            except HoldgateError as error:
                results.append(ImportResult(row.ref.tenant, applied=False, error=error.message))
            else:
                results.append(ImportResult(row.ref.tenant, applied=applied, error=""))
        return results

    async def _import(self, row: ImportRow, within_s: float) -> bool:
        policy, ref = self._gate.resolve(row.ref)
        bad = text_violations("import_id", row.import_id, required=True)
        if bad:
            raise InvalidRequestError(bad)
        _must_fit(row.account, policy, balances=row.balances)
        found = await self._engine.find(ref, "", within_s)
        account = None
        if found.account is None:
            account = replace(row.account, created_at_ms=row.account.created_at_ms or found.now_ms, version=1)
        owner = account_or_default(policy, ref, found.account or account or row.account, found.now_ms)
        uses = imported_uses(policy, owner, row.usage, found.now_ms)
        write = AccountWrite(
            account=account,
            expected_version=0,
            grants=cells_of(policy, "balances", row.balances),
            uses=uses,
            allocations=imported_allocations(policy, row.allocations),
            limits_ms=next_change_ms(policy, account, found.now_ms),
            balances=balances_of(policy),
            refills=refills_of(policy, account, found.now_ms) if account is not None else (),
            cause=Cause.IMPORT,
            write_id=f"import/{row.import_id}",
            fingerprint=fingerprint(_content(row)),
        )
        answer = await self._engine.write_account(ref, write, within_s)
        self._gate.forget(ref)
        if isinstance(answer, Conflict):
            raise AccountChangedError(f"account {ref.tenant!r} was created in between; send the row again")
        return answer.applied

    async def get_hold(self, ref: TenantRef, hold_id: str, *, within_s: float) -> HoldView:
        """One hold or tombstone."""
        _, ref = self._gate.resolve(ref)
        bad = text_violations("hold_id", hold_id, required=True)
        if bad:
            raise InvalidRequestError(bad)
        found = await self._engine.find(ref, hold_id, within_s)
        if found.hold is None:
            self._gate.must_trust()
            raise no_such_hold(ref, hold_id)
        return found.hold

    async def list_holds(
        self, ref: TenantRef, page_size: int, page_token: str, *, within_s: float
    ) -> tuple[Sequence[HoldView], str]:
        """A page of open holds by lease end, and the token of the next page."""
        _, ref = self._gate.resolve(ref)
        count = page_of(page_size)
        after = _position(page_token)
        holds = await self._engine.open_holds(ref, after, count + 1, within_s)
        page = list(holds[:count])
        last = page[-1] if len(holds) > count else None
        return page, f"{last.lease_ends_at_ms}/{last.hold_id}" if last else ""

    async def force_release(self, ref: TenantRef, hold_id: str, word: Word, *, within_s: float) -> HoldOutcome:
        """Ends a hold on an operator's word."""
        if bad := reason_violations(word.why):
            raise InvalidRequestError(bad)
        act = Act(Deed.RELEASE, word.who, word.why, hold_id)
        return await self._gate.release(ref, hold_id, within_s=within_s, act=act)

    def get_policy(self, name: str) -> Policy:
        """The policy that decides now."""
        return self._policies.get(name)

    def reload_policies(self) -> Mapping[str, str]:
        """Reads the files again; version by policy."""
        return self._policies.reload()

    def validate_policy(self, text: str) -> tuple[Sequence[str], str]:
        """What is wrong with a policy text, and its version when nothing is."""
        try:
            return [], self._policies.check(text).version
        except PolicyRejectedError as error:
            return error.message.splitlines(), ""


def _must_fit(account: Account, policy: Policy, **amounts: Mapping[str, int]) -> None:
    """Raises with every field of an account, and of amounts by field name, that the policy does not know."""
    bad: list[FieldViolation] = []
    bad += _plan_violations(account, policy)
    limits = {limit.id: limit for limit in policy.limits}
    for index, override in enumerate(account.overrides):
        if override.limit_id not in limits:
            field = f"account.overrides[{index}].limit_id"
            bad.append(unknown(field, override.limit_id, policy.name, "limit", limits))
        if not 0 <= override.value <= MAX_AMOUNT:
            bad.append(FieldViolation(f"account.overrides[{index}].value", "must be from 0 to 2^53 - 1"))
    if not 0 <= account.created_at_ms <= MAX_AMOUNT:
        bad.append(FieldViolation("account.created_at_ms", "must be milliseconds since the epoch"))
    for flag in account.flags:
        bad += text_violations(f"account.flags[{flag}]", flag, required=True)
    for field, units in amounts.items():
        bad += amount_violations(field, units, policy)
    if bad:
        raise InvalidRequestError(bad)


def _plan_violations(account: Account, policy: Policy) -> list[FieldViolation]:
    """What is wrong with an account's plan, or, where the policy has tiers, with its tier."""
    plans, tier = dict.fromkeys(policy.plans), account.tier_override
    bad: list[FieldViolation] = []
    if policy.tiers is not None:
        if account.plan:
            text = "must be empty: the tier follows from purchases; set tier_override to give a higher one"
            bad.append(FieldViolation("account.plan", text))
        if tier is not None and tier.plan not in plans:
            bad.append(unknown("account.tier_override.tier", tier.plan, policy.name, "tier", plans))
        return bad
    if account.plan not in plans:
        bad.append(unknown("account.plan", account.plan, policy.name, "plan", plans))
    if tier is not None:
        bad.append(FieldViolation("account.tier_override", f"must be absent: policy {policy.name!r} has no tiers"))
    return bad


def _content(row: ImportRow) -> object:
    """What makes two rows of one id equal."""
    if not (row.usage or row.allocations):
        return dict(row.balances)
    return [dict(row.balances), *map(list, row.usage), *map(list, row.allocations)]


def _opening(policy: Policy, plan: str, named: Mapping[str, int]) -> Mapping[str, int]:
    """What a new account starts with, by meter: what was named, else what the plan gives."""
    if named:
        return named
    balances = [limit for limit in policy.limits if isinstance(limit, Balance)]
    return {limit.meter: units for limit in balances if (units := limit.opening.of(plan))}


def _is_upgrade(policy: Policy, stored: Account, record: Account) -> bool:
    """Whether a change of plan raises the ceiling of a refill."""
    return any(
        (limit.refill.to.of(record.plan) or 0) > (limit.refill.to.of(stored.plan) or 0)
        for limit in policy.limits
        if isinstance(limit, Balance) and limit.refill is not None and stored.plan in policy.plans
    )


def _position(page_token: str) -> tuple[int, str]:
    if not page_token:
        return (0, "")
    parts = _PLACE.fullmatch(page_token)
    if parts is None:
        raise InvalidRequestError.of("page_token", "is not a token that ListHolds gave; start without one")
    return int(parts[1]), parts[2]
