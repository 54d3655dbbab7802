"""Balances held against open holds, however many there are."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgpack

from server.domain.policy import Policy
from server.engine.audits import PAGE, audited
from tests.policies_for_tests import balance, policy
from tests.tenants import WITHIN_S, Tenant

PURSE: Final = policy(balance("credits"))
HOLDS: Final = 2 * PAGE + 7
KEEPS_5: Final = msgpack.packb([b"", b"", b"", 5])
"""A page's one balance, of which its holds keep 5."""


async def test_the_holds_of_a_tenant_with_thousands_are_all_looked_at(
    tenant: Callable[[Policy], Tenant],
) -> None:
    lab = tenant(PURSE)
    await lab.open(credits=10 * HOLDS)
    for first in range(0, HOLDS, 100):
        await asyncio.gather(*(lab.grant(f"h{n}", credits=3) for n in range(first, min(first + 100, HOLDS))))

    audit = await lab.engine.audit(lab.ref, [PURSE.limits[0].cell], WITHIN_S)

    state = audit.balances[PURSE.limits[0].cell]
    assert state.kept == state.totals.held == 3 * HOLDS


async def test_holds_that_move_between_two_pages_are_counted_anew() -> None:
    """The first pass finds one hold fewer on its second page than on its first; the second finds none moved."""
    counts = iter([PAGE + 2, PAGE + 1, PAGE + 1, PAGE + 1])
    pages: list[int] = []

    async def page(passed_over: int) -> list[object]:
        pages.append(passed_over)
        return [0, 1, 0, next(counts), KEEPS_5]

    audit = await audited(["c"], page)

    assert pages == [0, PAGE, 0, PAGE]
    assert audit.balances["c"].kept == 10


async def test_what_never_stands_still_is_not_known() -> None:
    counts = iter(range(3 * PAGE, 2 * PAGE, -1))

    async def page(_passed_over: int) -> list[object]:
        return [0, 1, 0, next(counts), KEEPS_5]

    assert (await audited(["c"], page)).balances["c"].kept is None
