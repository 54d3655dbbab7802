"""Balances with what stands behind them, where a tenant has more open holds than one script call may look at."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from server.domain.reconcile import BalanceState
from server.engine import wire_money
from server.engine.base import Audit

PAGE: Final = 500
"""Open holds that one call looks at; mirrors `audit.lua`."""

ATTEMPTS: Final = 5
"""How often holds are counted anew that moved between two pages; then what they keep is not known."""


async def audited(cells: Sequence[str], page: Callable[[int], Awaitable[list[Any]]]) -> Audit:
    """The audit of these balances. `page` answers for the open holds behind so many, as `audit.lua` does.

    Pages count as one instant when neither a balance, nor the ledger, nor the number of open holds has changed from
    the first to the last.
    """
    for _ in range(ATTEMPTS):
        _, now_ms, sequence, count, packed = await page(0)
        states = wire_money.balance_states(packed)
        kept = [state.kept or 0 for state in states]
        same = True
        for passed_over in range(PAGE, count, PAGE):
            _, _, last, card, packed = await page(passed_over)
            more = wire_money.balance_states(packed)
            same = (last, card) == (sequence, count) and _unmoved(states, more)
            if not same:
                break
            kept = [units + (state.kept or 0) for units, state in zip(kept, more, strict=True)]
        if same:
            found = [state._replace(kept=units) for state, units in zip(states, kept, strict=True)]
            return Audit(now_ms, sequence, dict(zip(cells, found, strict=True)))
    return Audit(now_ms, sequence, {c: s._replace(kept=None) for c, s in zip(cells, states, strict=True)})


def _unmoved(before: Sequence[BalanceState], after: Sequence[BalanceState]) -> bool:
    return all(one.cell == other.cell for one, other in zip(before, after, strict=True))
