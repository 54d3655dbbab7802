"""What the memory engine does with the checks of a plan: looks at all of them, takes all of them."""

from collections.abc import Mapping, Sequence

from server.domain.limits import CELLS, Kind
from server.domain.limits.balance import BalanceCell
from server.domain.limits.base import QUEUES, Cell, Check, Look, Taken
from server.domain.limits.slots import SlotsCell
from server.domain.limits.window import Window
from server.domain.plan import Plan
from server.engine.faults import too_many_cells
from server.engine.memory_tenant import CellName, Take, Tenant


def name_of(check: Check) -> CellName:
    """The name of the cell that a check looks at."""
    return check.limit.cell, check.scope


def cell_for(tenant: Tenant, check: Check) -> Cell:
    """The cell that a check looks at; an empty one is made where there is none."""
    name = name_of(check)
    if name not in tenant.cells:
        tenant.cells[name] = CELLS[check.limit.kind](check.limit)
    return tenant.cells[name]


def is_current(plan: Plan, tenant: Tenant, now_ms: int) -> bool:
    """Whether the plan was made for the account as it is, and for this time."""
    version = tenant.account.version if tenant.account is not None else 0
    return plan.account.version == version and plan.valid_from_ms <= now_ms < plan.valid_until_ms


def must_have_room(plan: Plan, tenant: Tenant, most: int, now_ms: int) -> None:
    """Raises where the plan would open a standing cell beside so many."""
    standing = tenant.standing_cells(now_ms)
    opens = [c for c in plan.checks if c.limit.kind is not Kind.WINDOW and c.take and name_of(c) not in standing]
    if opens and len(standing) >= most:
        raise too_many_cells(plan.operation.ref, most)


def look_all(checks: Sequence[Check], tenant: Tenant, now_ms: int) -> tuple[Look, ...]:
    """The figures of all checks."""
    return tuple(look_at(check, tenant, now_ms) for check in checks)


def look_at(check: Check, tenant: Tenant, now_ms: int) -> Look:
    """The figures of one check; of a pool with a queue, over all pools that share its places."""
    cell = cell_for(tenant, check)
    if check.queue is None or not isinstance(cell, SlotsCell):
        return cell.look(check, now_ms)
    queued = sum(waits_for in check.queue.cells for waits_for, _ in tenant.queue)
    return cell.look_at_queue(check, places_taken(tenant, check.queue.cells), queued, now_ms)


def places_taken(tenant: Tenant, cells: Sequence[str]) -> int:
    """The places taken of pools that share theirs."""
    pools = [tenant.cells.get((cell, ())) for cell in cells]
    return sum(pool.taken for pool in pools if isinstance(pool, SlotsCell))


def waits(checks: Sequence[Check], looks: Sequence[Look]) -> Check | None:
    """The pool that a request must wait for which nothing else blocks; None where it need not."""
    if blocked(checks, looks):
        return None
    return next((check for check, look in zip(checks, looks, strict=True) if look.wait_ms == QUEUES), None)


def follow_clock(checks: Sequence[Check], tenant: Tenant, looks: Sequence[Look], now_ms: int) -> None:
    """Moves what blocks back with a clock that stepped back."""
    for check, look in zip(checks, looks, strict=True):
        if not look.fits and look.wait_ms != QUEUES:
            cell_for(tenant, check).follow(now_ms)


def blocked(checks: Sequence[Check], looks: Sequence[Look]) -> bool:
    """Whether something blocks that is not only watched."""
    return any(
        look.wait_ms not in {0, QUEUES} and not check.limit.shadow for check, look in zip(checks, looks, strict=True)
    )


def take_all(
    checks: Sequence[Check], tenant: Tenant, looks: Sequence[Look], now_ms: int, bases: Mapping[str, int]
) -> tuple[list[Take], tuple[Look, ...]]:
    """Takes what fits; what a hold keeps of it, and the figures then. `bases` are where a raise starts, by meter."""
    takes: list[Take] = []
    after: list[Look] = []
    for check, look in zip(checks, looks, strict=True):
        if not look.fits or not (check.take or check.settles):
            after.append(look)
            continue
        cell = cell_for(tenant, check)
        draws = cell.drawn(check) if isinstance(cell, BalanceCell) else ()
        taken_look = cell.take(check, now_ms)
        after.append(taken_look if check.queue is None else look_at(check._replace(amount=0), tenant, now_ms))
        meter = check.limit.meter if check.settles else ""
        if meter or not isinstance(check.limit, Window) or check.limit.returns:
            cycle_ms = check.terms.start_ms if check.terms is not None else 0
            base, marks = bases.get(meter, 0), check.marks
            taken = Taken(check.take, now_ms, base, last=True, cycle_ms=cycle_ms, draws=draws, marks=marks)
            takes.append(Take(name_of(check), check.limit, meter, taken))
    return takes, tuple(after)
