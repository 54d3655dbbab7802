"""The use cases of money: purchases, refunds, grants, balances, the ledger, reconciliation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import orjson

from server.domain.account import Account
from server.domain.act import Act, Deed, Word, reason_violations
from server.domain.errors import AccountChangedError, AccountNotFoundError, FieldViolation, InvalidRequestError
from server.domain.ledger import Cause, LedgerEntry, Totals
from server.domain.limits import Balance
from server.domain.limits.balance import GrantSource
from server.domain.operation import TenantRef, amount_violations, text_violations, unknown
from server.domain.policy import Policy
from server.domain.reconcile import BalanceState, Difference, differences, repaired
from server.domain.refill import marks_of
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from server.engine.base import AccountWrite, Engine, Written
from server.gate import QuotaGate

WRITE_ROUNDS: Final = 64
"""Times that a purchase reads the account again when another write came in between. Of those who write at once one
succeeds in each round, so this is how many purchases of one tenant may arrive together."""

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Refund:
    """What a refund came to: the account after it, whether this call made it, and the units taken back by meter."""

    account: Account
    applied: bool
    taken: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a reconciliation found, in how many entries, and whether it repaired it."""

    differences: Sequence[Difference]
    entries: int
    repaired: bool


class Accounting:
    """One per process, of the administration."""

    def __init__(self, engine: Engine, gate: QuotaGate) -> None:
        self._engine = engine
        self._gate = gate

    async def record_purchase(
        self,
        ref: TenantRef,
        purchase_id: str,
        face_value_usd_micros: int,
        amounts: Mapping[str, int],
        *,
        within_s: float,
    ) -> tuple[Account, bool]:
        """Raises lifetime_purchased by the face value and adds what was bought, once per id."""
        policy, ref = self._gate.resolve(ref)
        _must_be_purchase("purchase_id", purchase_id, face_value_usd_micros, amounts, policy)
        write = AccountWrite(
            grants=cells_of(policy, "amounts", amounts),
            source=GrantSource.BOUGHT,
            balances=balances_of(policy),
            cause=Cause.PURCHASE,
            write_id=f"purchase/{purchase_id}",
            fingerprint=fingerprint([face_value_usd_micros, dict(amounts)]),
        )
        account, answer = await self._write_purchase(ref, write, face_value_usd_micros, within_s)
        return account, answer.applied

    async def refund_purchase(
        self,
        ref: TenantRef,
        refund_id: str,
        face_value_usd_micros: int,
        amounts: Mapping[str, int],
        *,
        within_s: float,
    ) -> Refund:
        """Lowers lifetime_purchased by the face value and takes back what was bought and not yet spent, once per id."""
        policy, ref = self._gate.resolve(ref)
        _must_be_purchase("refund_id", refund_id, face_value_usd_micros, amounts, policy)
        cells = cells_of(policy, "amounts", amounts)
        write = AccountWrite(
            grants={cell: -units for cell, units in cells.items()},
            source=GrantSource.BOUGHT,
            balances=balances_of(policy),
            cause=Cause.REFUND,
            write_id=f"refund/{refund_id}",
            fingerprint=fingerprint([face_value_usd_micros, dict(amounts)]),
        )
        account, answer = await self._write_purchase(ref, write, -face_value_usd_micros, within_s)
        taken = {meter: answer.changed.get(cell, 0) for meter, cell in zip(amounts, cells, strict=True)}
        return Refund(account, answer.applied, taken)

    async def _write_purchase(
        self, ref: TenantRef, write: AccountWrite, change_usd_micros: int, within_s: float
    ) -> tuple[Account, Written]:
        """Makes the write together with the change of lifetime_purchased, whatever version the account is at."""
        self._gate.must_trust()
        for _ in range(WRITE_ROUNDS):
            account, now_ms = await self._opened(ref, within_s)
            lifetime = max(account.lifetime_purchased_usd_micros + change_usd_micros, 0)
            if lifetime > MAX_AMOUNT:
                raise InvalidRequestError.of("face_value_usd_micros", "would bring lifetime purchases above 2^53 - 1")
            record = replace(account, lifetime_purchased_usd_micros=lifetime, version=account.version + 1)
            marks = marks_of(self._gate.policy(ref.policy), account, now_ms)
            this = replace(write, account=record, expected_version=account.version, marks=marks)
            answer = await self._engine.write_account(ref, this, within_s)
            self._gate.forget(ref)
            if isinstance(answer, Written):
                return answer.account or account, answer
        what = write.cause.name.lower()
        message = f"account {ref.tenant!r} changed {WRITE_ROUNDS} times during the {what}; send it again"
        raise AccountChangedError(message)

    async def create_grant(
        self,
        ref: TenantRef,
        grant_id: str,
        amounts: Mapping[str, int],
        *,
        expires_at_ms: int = FOREVER_MS,
        within_s: float,
    ) -> bool:
        """Adds promotional units to balances once per id, until they expire; whether this call did."""
        policy, ref = self._gate.resolve(ref)
        bad = text_violations("grant_id", grant_id, required=True) + amount_violations("amounts", amounts, policy)
        bad += _expiry_violations(policy, amounts, expires_at_ms)
        if bad:
            raise InvalidRequestError(bad)
        self._gate.must_trust()
        await self.account(ref, within_s)
        write = AccountWrite(
            grants=cells_of(policy, "amounts", amounts),
            source=GrantSource.PROMOTIONAL,
            expires_at_ms=expires_at_ms,
            balances=balances_of(policy),
            cause=Cause.GRANT,
            write_id=f"grant/{grant_id}",
            fingerprint=fingerprint([dict(amounts), expires_at_ms] if expires_at_ms < FOREVER_MS else dict(amounts)),
        )
        answer = await self._engine.write_account(ref, write, within_s)
        return isinstance(answer, Written) and answer.applied

    async def account(self, ref: TenantRef, within_s: float) -> Account:
        """The stored account of a tenant whose policy was resolved; AccountNotFoundError without one."""
        return (await self._opened(ref, within_s))[0]

    async def _opened(self, ref: TenantRef, within_s: float) -> tuple[Account, int]:
        """The same, and the time."""
        found = await self._engine.find(ref, "", within_s)
        if found.account is None:
            self._gate.must_trust()
            text = f"no account {ref.tenant!r} in policy {ref.policy!r}; create it with AdminService.PutAccount"
            raise AccountNotFoundError(text)
        return found.account, found.now_ms

    def limit_ids(self, ref: TenantRef) -> Mapping[str, str]:
        """The ids of the policy's balances by cell."""
        policy, _ = self._gate.resolve(ref)
        return {cell: limit.id for cell, limit in balances_of(policy).items()}

    async def balances(self, ref: TenantRef, *, within_s: float) -> Sequence[tuple[Balance, BalanceState]]:
        """The tenant's balances, in the policy's order."""
        policy, ref = self._gate.resolve(ref)
        self._gate.must_trust()
        limits = balances_of(policy)
        audit = await self._engine.audit(ref, list(limits), within_s)
        return [(limit, audit.balances[cell]) for cell, limit in limits.items()]

    async def watched(self, ref: TenantRef, *, within_s: float) -> Sequence[tuple[Balance, BalanceState]]:
        """Those of the tenant's balances that have thresholds; nothing is asked where the policy has none."""
        policy, ref = self._gate.resolve(ref)
        if not any(limit.thresholds for limit in balances_of(policy).values()):
            return ()
        return [(limit, state) for limit, state in await self.balances(ref, within_s=within_s) if limit.thresholds]

    async def ledger(
        self, ref: TenantRef, after: int, page_size: int, *, within_s: float
    ) -> tuple[Sequence[LedgerEntry], int | None]:
        """A page of entries above a sequence, and where the next page begins."""
        _, ref = self._gate.resolve(ref)
        if not 0 <= after <= MAX_AMOUNT:
            raise InvalidRequestError.of("after_sequence", f"is {after}; must be from 0 to 2^53 - 1")
        count = page_of(page_size)
        self._gate.must_trust()
        entries = await self._engine.ledger(ref, after, count + 1, within_s)
        page = entries[:count]
        return page, page[-1].sequence if len(entries) > count else None

    async def latest(self, ref: TenantRef, count: int, *, within_s: float) -> Sequence[LedgerEntry]:
        """The last entries of the ledger, the latest first; none where the policy has no balances."""
        policy, ref = self._gate.resolve(ref)
        if not balances_of(policy):
            return ()
        audit = await self._engine.audit(ref, (), within_s)
        return (await self._engine.ledger(ref, max(audit.last_sequence - count, 0), count, within_s))[::-1]

    async def trim(self, ref: TenantRef, through: int, *, within_s: float) -> int:
        """Drops entries that are kept elsewhere; how many."""
        _, ref = self._gate.resolve(ref)
        if not 1 <= through <= MAX_AMOUNT:
            raise InvalidRequestError.of("through_sequence", f"is {through}; must be from 1 to 2^53 - 1")
        self._gate.must_trust()
        return await self._engine.trim_ledger(ref, through, within_s)

    async def reconcile(self, ref: TenantRef, word: Word, *, repair: bool, within_s: float) -> Reconciliation:
        """Holds the balances against ledger and open holds; gives them what those tell only if told to."""
        policy, ref = self._gate.resolve(ref)
        if bad := reason_violations(word.why):
            raise InvalidRequestError(bad)
        self._gate.must_trust()
        audit = await self._engine.audit(ref, list(balances_of(policy)), within_s)
        entries = await self._entries(ref, audit.last_sequence, within_s)
        found = list(differences(audit.balances, entries))
        totals = {
            cell: right
            for cell, state in audit.balances.items()
            if (right := repaired(cell, state, entries)) != state.totals
        }
        if not (repair and totals):
            return Reconciliation(found, len(entries), repaired=False)
        act = repair_act(word, balances_of(policy), totals, audit.balances)
        done = await self._engine.hands.repair(ref, totals, audit.balances, act, within_s)
        return Reconciliation(found, len(entries), done)

    async def _entries(self, ref: TenantRef, last: int, within_s: float) -> list[LedgerEntry]:
        """All entries up to a sequence."""
        entries: list[LedgerEntry] = []
        after = 0
        while page := await self._engine.ledger(ref, after, MAX_PAGE, within_s):
            entries += page
            after = page[-1].sequence
            if after >= last:
                break
        return [entry for entry in entries if entry.sequence <= last]


def repair_act(
    word: Word, balances: Mapping[str, Balance], totals: Mapping[str, Totals], seen: Mapping[str, BalanceState]
) -> Act:
    """What the audit trail tells of a repair: of each balance the totals that change, before and after."""
    before, after = [], []
    for cell, right in totals.items():
        for name, now, then in zip(Totals._fields, right, seen[cell].totals, strict=True):
            if now != then:
                before.append(f"{balances[cell].id}.{name}={then}")
                after.append(f"{balances[cell].id}.{name}={now}")
    target = ", ".join(balances[cell].id for cell in totals)
    return Act(Deed.REPAIR, word.who, word.why, target, before=" ".join(before), after=" ".join(after))


def balances_of(policy: Policy) -> Mapping[str, Balance]:
    """The policy's balances by cell."""
    return {limit.cell: limit for limit in policy.limits if isinstance(limit, Balance)}


def cells_of(policy: Policy, field: str, amounts: Mapping[str, int]) -> dict[str, int]:
    """Amounts by balance meter, in this field of the request, as units by cell."""
    cells = {limit.meter: limit.cell for limit in policy.limits if isinstance(limit, Balance)}
    bad = [
        unknown(f"{field}[{meter}]", meter, policy.name, "balance of meter", cells)
        for meter in amounts
        if meter not in cells
    ]
    if bad:
        raise InvalidRequestError(bad)
    return {cells[meter]: amount for meter, amount in amounts.items()}


def fingerprint(content: object) -> bytes:
    """Tells equal content of a write with an id."""
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()[:8]


def page_of(page_size: int) -> int:
    """How many entries a page has."""
    if not 0 <= page_size <= MAX_PAGE:
        raise InvalidRequestError.of("page_size", f"is {page_size}; must be from 0 to {MAX_PAGE}")
    return page_size or DEFAULT_PAGE


def _must_be_purchase(  # fields of one request
    field: str, write_id: str, face_value_usd_micros: int, amounts: Mapping[str, int], policy: Policy
) -> None:
    bad = text_violations(field, write_id, required=True) + amount_violations("amounts", amounts, policy)
    if not 0 <= face_value_usd_micros <= MAX_AMOUNT:
        bad.append(FieldViolation("face_value_usd_micros", "must be from 0 to 2^53 - 1"))
    if bad:
        raise InvalidRequestError(bad)


def _expiry_violations(policy: Policy, amounts: Mapping[str, int], expires_at_ms: int) -> list[FieldViolation]:
    """What is wrong with an expiry: it needs balances that keep grants apart."""
    if expires_at_ms == FOREVER_MS:
        return []
    if not 0 <= expires_at_ms <= MAX_AMOUNT:
        return [FieldViolation("expires_at_ms", "must be milliseconds since the epoch")]
    return [
        FieldViolation("expires_at_ms", f"balance {limit.id!r} is one sum; give it a `burn` order to keep grants apart")
        for limit in policy.limits
        if isinstance(limit, Balance) and limit.meter in amounts and not limit.burn
    ]
