"""Money in the memory engine: account writes, refills, and what a hold drew from which grant."""

from server.domain.ledger import Cause
from server.domain.limits.balance import MOST_GRANTS, Balance, BalanceCell, GrantSource
from server.domain.limits.base import Draw, Limit, Taken
from server.domain.refill import BalanceTerms, Refill
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from server.engine.base import AccountWrite
from server.engine.faults import balance_too_large, grant_is_over, too_many_grants
from server.engine.memory_notes import note_fall
from server.engine.memory_tenant import Schedule, Tenant, balance_of


def must_fit(tenant: Tenant, cell: str, units: int, write: AccountWrite, now_ms: int) -> None:
    """Raises where a balance cannot be changed by these units."""
    balance, limit = balance_of(tenant, cell), write.balances.get(cell)
    if max(balance.granted + units, balance.reversed - units) > MAX_AMOUNT:
        raise balance_too_large()
    own = (write.source, write.expires_at_ms)
    if units < 0 or limit is None or not limit.burn or own == (GrantSource.MONTHLY, FOREVER_MS):
        return
    if write.expires_at_ms <= now_ms:
        raise grant_is_over()
    is_new = own not in {(grant.source, grant.expires_at_ms) for grant in balance.grants}
    if is_new and len(balance.grants) >= MOST_GRANTS:
        raise too_many_grants()


def grant_units(tenant: Tenant, cell: str, units: int, write: AccountWrite, now_ms: int) -> int:
    """Adds units to a balance, or takes them back; how many."""
    balance, limit = balance_of(tenant, cell), write.balances.get(cell)
    tenant.cells[cell, ()] = balance
    before = balance.totals
    if units >= 0:
        balance.grant(units, write.source, write.expires_at_ms, limit)
        changed = units
    else:
        changed = balance.reverse(-units, write.source, limit.debt if limit is not None else 0)
    if changed and limit is not None and limit.ledger:
        tenant.moved(now_ms, write.cause, write.write_id, cell, before)
    note_fall(tenant, (cell, ()), write.marks.get(cell, ()), (before.left, balance.totals.left), now_ms)
    return changed


def begin_refills(tenant: Tenant, refill: Refill, write: AccountWrite, now_ms: int) -> None:
    """Begins a balance's refills; where they have begun, tops up for a plan that this cycle has not had."""
    schedule = tenant.schedules.get(refill.cell)
    if schedule is None:
        tenant.schedules[refill.cell] = Schedule(refill.cycle.end_ms, refill.cycle.start_ms, [refill.plan])
        return
    if not write.raises or refill.plan in schedule.plans:
        return
    schedule.plans.append(refill.plan)
    balance = balance_of(tenant, refill.cell)
    tenant.cells[refill.cell, ()] = balance
    before = balance.totals
    balance.top_up(refill.ceiling)
    if balance.totals != before and refill.ledgered:
        tenant.moved(now_ms, Cause.UPGRADE, write.write_id, refill.cell, before)


def change_grants(tenant: Tenant, balance_terms: BalanceTerms, at_ms: int) -> None:
    """What changes at this instant: grants lapse, then refills are made; a fall that remains is noted."""
    terms = {refill.cell: refill for refill in balance_terms.refills}
    for name in tenant.schedules:
        tenant.cells[name, ()] = balance_of(tenant, name)  # also where nothing has come in yet
    for (name, _), balance in sorted(tenant.cells.items(), key=lambda cell: cell[0]):
        if not isinstance(balance, BalanceCell):
            continue
        before, ledgered = balance.totals, balance.ledgered
        balance.lapse(at_ms)
        if balance.totals != before and ledgered:
            tenant.moved(at_ms, Cause.LAPSE, "", name, before)
        schedule = tenant.schedules.get(name)
        if schedule is not None and schedule.refill_ms <= at_ms:
            make_refill(tenant, balance, schedule, terms.get(name), at_ms)
        marks = balance_terms.marks.get(name, ())
        note_fall(tenant, (name, ()), marks, (before.left, balance.totals.left), at_ms)
    tenant.schedules = {n: s for n, s in tenant.schedules.items() if s.refill_ms < FOREVER_MS}


def make_refill(tenant: Tenant, balance: BalanceCell, schedule: Schedule, refill: Refill | None, at_ms: int) -> None:
    """Makes the refill that is due, and notes the next one."""
    if refill is None:
        schedule.refill_ms = FOREVER_MS  # the policy refills it no more
        return
    if refill.cycle.start_ms > schedule.cycle_ms:
        before = balance.totals
        balance.top_up(refill.ceiling)
        if balance.totals != before and refill.ledgered:
            tenant.moved(at_ms, Cause.REFILL, "", refill.cell, before)
        schedule.cycle_ms, schedule.plans = refill.cycle.start_ms, [refill.plan]
    schedule.refill_ms = refill.cycle.end_ms


def is_ledgered(limit: Limit) -> bool:
    """Whether movements of this limit are written down."""
    return isinstance(limit, Balance) and limit.ledger


def joined_draws(taken: Taken, more: Taken) -> tuple[Draw, ...]:
    """The draws of a take that grew; none where it is from a balance of one sum."""
    if not (taken.draws or more.draws):
        return ()
    return (*_explained(taken), *_explained(more))


def _explained(taken: Taken) -> tuple[Draw, ...]:
    """Draws for all of a take: what none explains was there before grants were kept apart, or was charged since."""
    unexplained = taken.amount - sum(draw.units for draw in taken.draws)
    rest = (Draw(GrantSource.MONTHLY, FOREVER_MS, unexplained),) if unexplained else ()
    return (*taken.draws, *rest)
