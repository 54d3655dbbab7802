"""Samples and allocations as the memory engine keeps them: the judge of `lua/record.lua`."""

from collections.abc import Callable, Sequence

from server.domain.allowances import LooksOf
from server.domain.limits.quota import QuotaCell
from server.domain.operation import TenantRef
from server.domain.sampling import MOST_ENTRIES, Entry, Outcome, Page
from server.domain.units import MAX_AMOUNT
from server.engine.books import Booked, Booking, Outdated, Target
from server.engine.faults import too_many_cells
from server.engine.memory_counts import give_back
from server.engine.memory_notes import note_crossings
from server.engine.memory_tenant import Samples, Tenant


class MemoryBooks:
    """`enter` gives a tenant and the time, with all done that time has made due if asked for."""

    def __init__(self, enter: Callable[[TenantRef], tuple[Tenant, int]], looks: LooksOf, most_cells: int) -> None:
        self._enter = enter
        self._looks = looks
        self._most_cells = most_cells

    async def record(self, ref: TenantRef, booking: Booking, within_s: float) -> Booked | Outdated:  # noqa: ARG002  # nothing waits here
        """Books samples."""
        tenant, now_ms = self._enter(ref)
        version = tenant.account.version if tenant.account is not None else 0
        if version != booking.version:
            return Outdated(now_ms, tenant.account)
        tenant.samples = {name: kept for name, kept in tenant.samples.items() if kept.until_ms > now_ms}
        cells = [_cell_of(tenant, target) for target in booking.targets]
        sums = [cell.used_in(_start(target)) for cell, target in zip(cells, booking.targets, strict=True)]
        added = [0] * len(cells)
        touched: set[int] = set()
        outcomes: list[Outcome] = []
        pages: dict[Page, Samples] = {}
        changed: set[Page] = set()
        for entry, places, until_ms in booking.entries:
            known = pages.setdefault(entry.page, _samples_of(tenant, entry.page, until_ms))
            outcome, units = _judged(entry, known, [sums[place] + added[place] for place in places])
            outcomes.append(outcome)
            if outcome is Outcome.APPLIED:
                known.entries[entry.key] = entry.sequence, entry.number
                changed.add(entry.page)
                touched.update(places)
                for place in places:
                    added[place] += units
        self._must_have_room(ref, tenant, booking, touched)
        tenant.samples |= {(page.record, page.field): pages[page] for page in changed}
        for place in sorted(touched):
            _book(tenant, booking.targets[place], max(added[place], -sums[place]), now_ms)
        return Booked(now_ms, outcomes)

    async def note_thresholds(self, ref: TenantRef, within_s: float) -> None:  # noqa: ARG002  # nothing waits here
        """Notes what is reached by now."""
        tenant, now_ms = self._enter(ref)
        self.look(ref, tenant, now_ms)

    def look(self, ref: TenantRef, tenant: Tenant, now_ms: int) -> None:
        """The same for a tenant that was entered; when to look again is put down."""
        checks, tenant.limits_ms = self._looks(ref, tenant.account, now_ms, list(tenant.cells))
        for check in checks:
            target = Target(check, over=False)
            if _cell_of(tenant, target).known(_start(target)) is not None:  # where nothing was used, nothing is found
                _book(tenant, target, 0, now_ms)

    def _must_have_room(self, ref: TenantRef, tenant: Tenant, booking: Booking, touched: set[int]) -> None:
        names = {(booking.targets[place].check.limit.cell, booking.targets[place].check.scope) for place in touched}
        standing = tenant.standing_cells()
        opened = names - set(standing)
        if opened and len(standing) + len(opened) > self._most_cells:
            raise too_many_cells(ref, self._most_cells)

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:  # noqa: ARG002  # nothing waits here
        """Gives back a standing allocation."""
        return give_back(self._enter(ref)[0], name, cell)


def _start(target: Target) -> int:
    assert target.check.terms is not None  # noqa: S101  # of a quota
    return target.check.terms.start_ms


def _cell_of(tenant: Tenant, target: Target) -> QuotaCell:
    cell = tenant.cells.setdefault((target.check.limit.cell, target.check.scope), QuotaCell())
    assert isinstance(cell, QuotaCell)  # noqa: S101  # targets are quotas
    return cell


def _samples_of(tenant: Tenant, page: Page, until_ms: int) -> Samples:
    """A copy of a page: what is refused as a whole leaves no trace."""
    known = tenant.samples.get((page.record, page.field)) or tenant.samples.get((page.before, page.field))
    return Samples(until_ms, dict(known.entries) if known is not None else {})


def _judged(entry: Entry, known: Samples, sums: Sequence[int]) -> tuple[Outcome, int]:
    """What becomes of a sample, and the units that it adds."""
    _, key, sequence, number, weight = entry
    last, before = known.entries.get(key, (None, 0))
    units = (number - before) * weight
    others = sum(n for k, (_, n) in known.entries.items() if k != key)
    if last == sequence:
        outcome = Outcome.REPEATED if number == before else Outcome.REUSED
    elif last is not None and entry.page.fixed:
        outcome = Outcome.REUSED
    elif last is not None and last > sequence:
        outcome = Outcome.OUTDATED
    elif entry.page.bound and others + number > entry.page.bound:
        outcome = Outcome.TOO_LONG
    elif last is None and len(known.entries) >= MOST_ENTRIES:
        outcome = Outcome.TOO_MANY
    elif any(total + units > MAX_AMOUNT for total in sums):
        outcome = Outcome.TOO_LARGE
    else:
        outcome = Outcome.APPLIED
    return outcome, units


def _book(tenant: Tenant, target: Target, units: int, now_ms: int) -> None:
    cell, check = _cell_of(tenant, target), target.check.check(())
    cell.meter(check, units, now_ms, over=target.over)
    note_crossings(tenant, cell, (check.limit.cell, check.scope), now_ms)
