"""Standing allocations in the memory engine."""

from collections.abc import Iterable

from server.domain.limits.count import Count, CountCell
from server.engine.base import AllocationImport
from server.engine.memory_tenant import CellName, Take, Tenant


def stand(tenant: Tenant, name: str, units: dict[CellName, int]) -> None:
    """Makes units stand under a name. Where some of the cell stand under it already, nothing is added: it is one."""
    standing = tenant.allocations.setdefault(name, {})
    for cell_name, amount in units.items():
        if cell_name not in standing:
            standing[cell_name] = amount
            count_of(tenant, cell_name).stand(amount)
    if not standing:
        del tenant.allocations[name]


def settled(takes: Iterable[Take]) -> dict[CellName, int]:
    """What a settled hold makes stand, by cell."""
    units: dict[CellName, int] = {}
    for take in takes:
        if isinstance(take.limit, Count):
            units[take.name] = units.get(take.name, 0) + take.taken.amount
    return units


def give_back(tenant: Tenant, name: str, cell: str) -> bool:
    """Gives back what stands under a name, of one cell's name alone if any is given; whether anything did."""
    standing = tenant.allocations.get(name, {})
    chosen = [cell_name for cell_name in standing if cell in {"", cell_name[0]}]
    for cell_name in chosen:
        count_of(tenant, cell_name).give_back(standing.pop(cell_name))
    if not standing:
        tenant.allocations.pop(name, None)
    return bool(chosen)


def bring_in(tenant: Tenant, allocations: Iterable[AllocationImport]) -> None:
    """Makes allocations stand that were made elsewhere."""
    for form, name, units in allocations:
        stand(tenant, name, {(form.limit.cell, form.scope): units})


def count_of(tenant: Tenant, name: CellName) -> CountCell:
    """The count of that name, a new one where there is none."""
    cell = tenant.cells.setdefault(name, CountCell())
    assert isinstance(cell, CountCell)  # noqa: S101  # allocations name counts only
    return cell
