"""What this process may grant by itself while the store is gone: a share of each limit, in a bounded memory.

Counts are this process's own and start at nothing. Of a window or quota the share is never passed in any span of the
window's or cycle's length; of a pool it bounds the places at once. Where nothing is left, or no memory, nothing is
granted.
"""

from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple

from server.domain.limits.base import Check, Kind
from server.domain.limits.window import Window
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.units import MAX_AMOUNT

MOST_CELLS: Final = 16_384
"""Windows and quotas that are counted at once, over all tenants."""

PARTS: Final = 8
"""A window is counted in parts of this fraction of its length; one more than these always covers it."""


class _Spent(NamedTuple):
    """A window or quota that is to be taken from: its length, its name, and how much."""

    length_ms: int
    name: Hashable
    amount: int


class Allowance:
    """`share` of each limit, rounded down, yet at least 1 of a limit that allows anything."""

    def __init__(self, share: float, most_cells: int = MOST_CELLS) -> None:
        self._share = share
        self._most_cells = most_cells
        # By length and name, the least recently taken from first: part of time and units taken, in turns.
        self._spans: dict[int, dict[Hashable, list[int]]] = {}
        self._count = 0
        # By name: lease's end and places of each hold.
        self._pools: dict[Hashable, dict[str, tuple[int, int]]] = {}

    def take(self, plan: Plan, hold_id: str, now_ms: int) -> str:
        """Takes what the plan asks for from all of its limits, or from none; why not, empty when it did."""
        spans: list[_Spent] = []
        places: list[tuple[Hashable, int]] = []
        for check in plan.checks:
            if check.limit.shadow or check.cap >= MAX_AMOUNT:
                continue
            name = _name(plan.operation.ref, check)
            if check.limit.kind is Kind.SLOTS:
                used = sum(amount for end_ms, amount in self._pools.get(name, {}).values() if end_ms > now_ms)
                places.append((name, check.take))
            else:
                length_ms = _length_ms(check)
                used = _used(self._spans.get(length_ms, {}).get(name, []), _part(length_ms, now_ms))
                spans.append(_Spent(length_ms, name, check.take))
            if check.amount and used + check.amount > self._allowed(check):
                return f"this process's share of limit {check.limit.id!r}, {self._allowed(check)}, is used up"
        if not self._make_room(spans, now_ms):
            return f"this process counts {self._most_cells} windows by itself, the most that it may"
        for span in spans:
            self._spend(span, now_ms)
        for name, amount in places:
            if amount:
                self._pools.setdefault(name, {})[hold_id] = now_ms + plan.terms.lease_ms, amount
        return ""

    def renew(self, plan: Plan, hold_id: str, lease_ends_at_ms: int) -> None:
        """Keeps the places of a hold for longer."""
        for pool in self._pools_of(plan):
            if hold_id in pool:
                pool[hold_id] = lease_ends_at_ms, pool[hold_id][1]

    def free(self, plan: Plan, hold_id: str) -> None:
        """Gives the places of a hold back; what windows and quotas count stays."""
        for pool in self._pools_of(plan):
            pool.pop(hold_id, None)
        for check in plan.shape.checks:
            name = (plan.operation.ref, check.limit.cell, check.scope)
            if not self._pools.get(name, True):
                del self._pools[name]

    def _pools_of(self, plan: Plan) -> Iterator[dict[str, tuple[int, int]]]:
        for check in plan.shape.checks:
            pool = self._pools.get((plan.operation.ref, check.limit.cell, check.scope))
            if pool is not None:
                yield pool

    def _allowed(self, check: Check) -> int:
        return max(int(check.cap * self._share), 1) if check.cap else 0

    def _make_room(self, spans: list[_Spent], now_ms: int) -> bool:
        new = sum(span.name not in self._spans.get(span.length_ms, {}) for span in spans)
        while self._count + new > self._most_cells:
            if not any(self._drop_ended(length_ms, now_ms) for length_ms in self._spans):
                return False
        return True

    def _drop_ended(self, length_ms: int, now_ms: int) -> bool:
        """Forgets the first of these that no longer counts anything; whether there was one."""
        cells = self._spans[length_ms]
        name = next(iter(cells), None)
        if name is None or _used(cells[name], _part(length_ms, now_ms)):
            return False
        del cells[name]
        self._count -= 1
        return True

    def _spend(self, span: _Spent, now_ms: int) -> None:
        cells = self._spans.setdefault(span.length_ms, {})
        parts = cells.pop(span.name, None)
        if parts is None:
            parts = []
            self._count += 1
        now = _part(span.length_ms, now_ms)
        if parts and parts[-2] == now:
            parts[-1] += span.amount
        else:
            del parts[: 2 * sum(part <= now - PARTS - 1 for part in parts[::2])]
            parts += (now, span.amount)
        cells[span.name] = parts


def _name(ref: TenantRef, check: Check) -> Hashable:
    return ref, check.limit.cell, check.scope


def _length_ms(check: Check) -> int:
    if check.terms is not None:
        return check.terms.end_ms - check.terms.start_ms
    return check.limit.window_ms if isinstance(check.limit, Window) else 0


def _part(length_ms: int, now_ms: int) -> int:
    return now_ms // max(-(-length_ms // PARTS), 1)


def _used(parts: list[int], now: int) -> int:
    return sum(amount for part, amount in zip(parts[::2], parts[1::2], strict=True) if part >= now - PARTS)
