"""What quotas need of the memory engine beside their cells: imported use, cycles to show, raises that join."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from server.domain.limits.base import Cell, Check, Kind, Limit, Taken
from server.domain.limits.quota import CycleUse, Quota, QuotaCell
from server.engine.base import CycleImport


def book_uses(uses: Iterable[CycleImport], cell_of: Callable[[Check], Cell], now_ms: int) -> None:
    """Adds use that happened elsewhere to quotas' current cycles."""
    for form, used in uses:
        check = form.check(())
        cell = cell_of(check)
        assert isinstance(cell, QuotaCell)  # noqa: S101  # uses name quotas only
        cell.book(check, used, now_ms)


def cycles_of(cells: Iterable[Cell]) -> tuple[Sequence[CycleUse], ...]:
    """The cycles of those cells that are quotas', as they stand now."""
    return tuple([replace(use) for use in cell.cycles] for cell in cells if isinstance(cell, QuotaCell))


def joins(limit: Limit, taken: Taken, new_limit: Limit, new: Taken) -> bool:
    """Whether a raise is one with what the hold took before: money has no time, and a cycle's units are alike."""
    if isinstance(limit, Quota) and isinstance(new_limit, Quota):
        return taken.last and taken.cycle_ms == new.cycle_ms and limit.thresholds == new_limit.thresholds
    return limit.kind is Kind.BALANCE
