"""What operators do, in the memory engine: the judge of `lua/reset.lua`, `lua/adjust.lua` and `lua/repair.lua`."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Final

from server.domain.act import Act, AuditLine
from server.domain.ledger import Cause, Totals
from server.domain.limits.balance import Balance, BalanceCell, GrantSource
from server.domain.limits.base import Cell
from server.domain.limits.quota import QuotaCell
from server.domain.limits.window import WindowCell
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm
from server.domain.reconcile import BalanceState
from server.domain.units import MAX_AMOUNT
from server.engine.books import Outdated
from server.engine.faults import adjusted_too_far, id_reused, tenant_in_use
from server.engine.hands import Adjusted, Adjustment, Deletion, Reset, WasReset
from server.engine.memory_checks import cell_for
from server.engine.memory_notes import note_crossings, note_fall
from server.engine.memory_tenant import Hold, Tenant, balance_of

MOST_ACTS: Final = 10_000
"""Lines that are kept, as `lua/include/acts.lua` does of each hash slot."""


class MemoryHands:
    """`enter` gives a tenant and the time, with all done that time has made due; `tenants` are all that there are."""

    def __init__(
        self, enter: Callable[[TenantRef], tuple[Tenant, int]], tenants: MutableMapping[TenantRef, Tenant]
    ) -> None:
        self._enter = enter
        self._tenants = tenants
        self._lines: list[AuditLine] = []
        self._told = 0

    def tell(self, ref: TenantRef, act: Act | None, now_ms: int, before: str = "", after: str = "") -> None:
        """Adds a line to the audit trail, if there is an act."""
        if act is None:
            return
        self._told += 1
        own = act._replace(before=act.before or before, after=act.after or after)
        self._lines.append(AuditLine(str(self._told), now_ms, ref, own))
        del self._lines[:-MOST_ACTS]

    async def reset(
        self,
        ref: TenantRef,
        reset: Reset,
        act: Act,
        fingerprint: bytes,
        within_s: float,  # noqa: ARG002  # nothing waits here
    ) -> WasReset | Outdated:
        """Forgets what was counted."""
        tenant, now_ms = self._enter(ref)
        if (known := _known(tenant, act, fingerprint)) is not None:
            return WasReset(applied=False, cells=known["cells"], before=known["before"])
        check = reset.check
        if check.terms is not None and not _is_current(tenant, check, reset.version, now_ms):
            return Outdated(now_ms, tenant.account)
        found = {
            (name, scope): cell
            for (name, scope), cell in tenant.cells.items()
            if name == check.limit.cell and (reset.every or scope == check.scope)
        }
        counted = [_forgotten(cell, check.terms.start_ms if check.terms else 0, now_ms) for cell in found.values()]
        told = [units for units in counted if units]
        tenant.writes[act.request_id] = fingerprint, {"cells": len(told), "before": sum(told)}
        self.tell(ref, act, now_ms, str(sum(told)), "0")
        return WasReset(applied=True, cells=len(told), before=sum(told))

    async def adjust(
        self,
        ref: TenantRef,
        adjustment: Adjustment,
        act: Act,
        fingerprint: bytes,
        within_s: float,  # noqa: ARG002  # nothing waits here
    ) -> Adjusted | Outdated:
        """Changes a quota's use or a balance."""
        tenant, now_ms = self._enter(ref)
        if (known := _known(tenant, act, fingerprint)) is not None:
            return Adjusted(applied=False, before=known["before"], after=known["after"])
        if not _is_current(tenant, adjustment.check, adjustment.version, now_ms):
            return Outdated(now_ms, tenant.account)
        change = _adjust_balance if adjustment.check.terms is None else _adjust_quota
        before, after = change(tenant, adjustment, act, now_ms)
        tenant.writes[act.request_id] = fingerprint, {"before": before, "after": after}
        self.tell(ref, act, now_ms, str(before), str(after))
        return Adjusted(applied=True, before=before, after=after)

    async def repair(
        self,
        ref: TenantRef,
        totals: Mapping[str, Totals],
        seen: Mapping[str, BalanceState],
        act: Act,
        within_s: float,  # noqa: ARG002  # nothing waits here
    ) -> bool:
        """Sets totals."""
        tenant, now_ms = self._enter(ref)
        if any(tenant.balance_state(cell) != seen[cell] for cell in totals):
            return False
        for cell, right in totals.items():
            balance = balance_of(tenant, cell)
            tenant.cells[cell, ()] = balance
            before = balance.totals
            balance.correct(right)
            tenant.moved(now_ms, Cause.REPAIR, "", cell, before)
        self.tell(ref, act, now_ms)
        return True

    async def delete(
        self,
        ref: TenantRef,
        act: Act,
        *,
        forced: bool,
        place: str,  # noqa: ARG002  # it is done at once
        within_s: float,  # noqa: ARG002  # nothing waits here
    ) -> Deletion:
        """Deletes a tenant."""
        tenant, now_ms = self._enter(ref)
        known = not tenant.is_blank(now_ms)
        holds = sum(hold.is_live for hold in tenant.holds.values())
        if holds and not forced:
            raise tenant_in_use(ref, holds)
        del self._tenants[ref]
        if known:
            self.tell(ref, act, now_ms, f"holds={holds}")
        return Deletion(applied=known, holds=holds, keys=int(known), place="")

    async def acts(
        self,
        ref: TenantRef,
        after: str,
        count: int,
        within_s: float,  # noqa: ARG002  # nothing waits here
    ) -> tuple[Sequence[AuditLine], str]:
        """Lines of the audit trail."""
        behind = [
            line for line in self._lines if int(line.line_id) > int(after.partition("-")[0].rpartition("/")[2] or 0)
        ]
        found = [line for line in behind if line.ref == ref or (not ref.tenant and line.ref.policy == ref.policy)]
        return found[:count], found[count - 1].line_id if len(found) > count else ""


def kept_by(hold: Hold) -> str:
    """What a hold keeps, by meter."""
    left = {name: max(totals.reserved - (totals.reported or 0), 0) for name, totals in hold.meters.items()}
    return " ".join(sorted(f"{name}={units}" for name, units in left.items()))


def _known(tenant: Tenant, act: Act, fingerprint: bytes) -> Mapping[str, int] | None:
    """What an act of this id came to; None for a new one."""
    known = tenant.writes.get(act.request_id)
    if known is not None and known[0] != fingerprint:
        raise id_reused(act.request_id, ["content"])
    return known[1] if known is not None else None


def _is_current(tenant: Tenant, check: CheckForm, version: int, now_ms: int) -> bool:
    stored = tenant.account.version if tenant.account is not None else 0
    terms = check.terms
    return version == stored and (terms is None or terms.start_ms <= now_ms < terms.end_ms)


def _forgotten(cell: Cell, start_ms: int, now_ms: int) -> int:
    """What a cell had counted before it forgot it."""
    if isinstance(cell, WindowCell):
        return cell.forget(now_ms)
    assert isinstance(cell, QuotaCell)  # noqa: S101  # of the kinds that forget
    return cell.forget(start_ms)


def _adjust_quota(tenant: Tenant, adjustment: Adjustment, _act: Act, now_ms: int) -> tuple[int, int]:
    check = adjustment.check.check(())
    cell = cell_for(tenant, check)
    assert isinstance(cell, QuotaCell)  # noqa: S101  # as the check says
    assert check.terms is not None  # noqa: S101  # same
    before = cell.settled_in(check.terms.start_ms)
    held = cell.used_in(check.terms.start_ms) - before
    after = max(adjustment.units if adjustment.sets else before + adjustment.units, 0)
    if after + held > MAX_AMOUNT:
        raise adjusted_too_far()
    cell.meter(check, after - before, now_ms, over=False)
    note_crossings(tenant, cell, (check.limit.cell, check.scope), now_ms)
    return before, after


def _adjust_balance(tenant: Tenant, adjustment: Adjustment, act: Act, now_ms: int) -> tuple[int, int]:
    limit, units = adjustment.check.limit, adjustment.units
    assert isinstance(limit, Balance)  # noqa: S101  # as the use case asks for
    balance = balance_of(tenant, limit.cell)
    totals, before = balance.totals, _less_owed(balance)
    if max(totals.granted + units, totals.reversed - units) > MAX_AMOUNT:
        raise adjusted_too_far()
    tenant.cells[limit.cell, ()] = balance
    if units >= 0:
        balance.grant(units)
    else:
        balance.reverse(-units, GrantSource.MONTHLY, limit.debt)
    after = _less_owed(balance)
    if limit.ledger and after != before:
        tenant.moved(now_ms, Cause.ADJUST, act.request_id, limit.cell, totals)
    note_fall(tenant, (limit.cell, ()), adjustment.check.marks, (totals.left, balance.totals.left), now_ms)
    return before, after


def _less_owed(balance: BalanceCell) -> int:
    return balance.available - balance.debt
