"""Notes of the memory engine for a tenant's people; twin of `lua/include/notes.lua`."""

from typing import Final

from server.domain.limits.balance import Marks, fallen
from server.domain.limits.base import Cell
from server.domain.limits.quota import QuotaCell
from server.domain.note import Note
from server.engine.memory_tenant import CellName, Tenant

MOST_NOTES: Final = 1000
"""Notes that are kept of a tenant."""


def note_crossings(tenant: Tenant, cell: Cell, name: CellName, now_ms: int) -> None:
    """Takes down the thresholds that a change of the cell of this name has crossed, where it is a quota's."""
    if not isinstance(cell, QuotaCell) or not cell.crossed:
        return
    _take_down(
        tenant,
        [
            Note("", now_ms, *name, start_ms, percent, limit, used, end_ms)
            for start_ms, end_ms, percent, limit, used in cell.crossed
        ],
    )
    cell.crossed.clear()


def note_fall(tenant: Tenant, name: CellName, marks: Marks, fall: tuple[int, int], at_ms: int) -> None:
    """Takes down the marks that a balance's fall from so many units to so many has reached."""
    before, after = fall
    _take_down(
        tenant, [Note("", at_ms, *name, 0, 0, 0, 0, mark=mark, left=after) for mark in fallen(marks, before, after)]
    )


def _take_down(tenant: Tenant, notes: list[Note]) -> None:
    if not notes:
        return
    first = int(tenant.notes[-1].note_id) + 1 if tenant.notes else 1
    tenant.notes += [note._replace(note_id=str(note_id)) for note_id, note in enumerate(notes, first)]
    del tenant.notes[:-MOST_NOTES]
    tenant.noted()
