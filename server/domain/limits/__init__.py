"""The limit kinds. A new kind is a module here, its YAML fields in `policy/kinds/` and its Lua twin in
`engine/lua/include/`, and a line in the tables below.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from server.domain.limits.balance import Balance, BalanceCell
from server.domain.limits.base import Cell, Kind, Limit
from server.domain.limits.count import Count, CountCell
from server.domain.limits.gate import Gate
from server.domain.limits.guard import Guard
from server.domain.limits.quota import Quota, QuotaCell
from server.domain.limits.slots import Slots, SlotsCell
from server.domain.limits.window import Window, WindowCell

PRECEDENCE: Final = (Kind.GUARD, Kind.GATE, Kind.QUOTA, Kind.BALANCE, Kind.COUNT, Kind.WINDOW, Kind.SLOTS)
"""Which kind gives the refusal's code when several block, unless the policy states its own order."""


def _window_cell(limit: Limit) -> Cell:
    assert isinstance(limit, Window)
    return WindowCell(limit.window_ms)


CELLS: Final[Mapping[Kind, Callable[[Limit], Cell]]] = MappingProxyType(
    {
        Kind.WINDOW: _window_cell,
        Kind.SLOTS: lambda _limit: SlotsCell(),
        Kind.BALANCE: lambda _limit: BalanceCell(),
        Kind.QUOTA: lambda _limit: QuotaCell(),
        Kind.COUNT: lambda _limit: CountCell(),
    }
)
"""The plain model of each kind that keeps state."""

__all__ = ["CELLS", "PRECEDENCE", "Balance", "Count", "Gate", "Guard", "Kind", "Limit", "Quota", "Slots", "Window"]
