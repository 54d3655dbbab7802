"""What the memory engine does with the checks of a plan: looks at all of them, takes all of them."""

from collections.abc import Mapping, Sequence

from server.domain.limits import CELLS
from server.domain.limits.balance import BalanceCell
from server.domain.limits.base import Cell, Check, Look, Taken
from server.domain.limits.window import Window
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


def look_all(checks: Sequence[Check], tenant: Tenant, now_ms: int) -> tuple[Look, ...]:
    """The figures of all checks."""
    return tuple(cell_for(tenant, check).look(check, now_ms) for check in checks)


def follow_clock(checks: Sequence[Check], tenant: Tenant, looks: Sequence[Look], now_ms: int) -> None:
    """Moves what blocks back with a clock that stepped back."""
    for check, look in zip(checks, looks, strict=True):
        if not look.fits:
            cell_for(tenant, check).follow(now_ms)


def blocked(checks: Sequence[Check], looks: Sequence[Look]) -> bool:
    """Whether something blocks that is not only watched."""
    return any(not look.fits and not check.limit.shadow for check, look in zip(checks, looks, strict=True))


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
        after.append(cell.take(check, now_ms))
        meter = check.limit.meter if check.settles else ""
        if meter or not isinstance(check.limit, Window) or check.limit.returns:
            cycle_ms = check.terms.start_ms if check.terms is not None else 0
            taken = Taken(check.take, now_ms, bases.get(meter, 0), last=True, cycle_ms=cycle_ms, draws=draws)
            takes.append(Take(name_of(check), check.limit, meter, taken))
    return takes, tuple(after)
