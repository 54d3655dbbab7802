"""Tenants on a plan that their policy no longer has: what time brings is done all the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from server.domain.account import Account, Override
from server.domain.hold import State
from server.domain.limits.slots import Queue
from server.domain.operation import TenantRef
from server.domain.policy import Policy
from server.domain.queue import Ticket
from server.engine.base import Granted, Queued
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, balance, policy, slots
from tests.tenants import WITHIN_S, Refills, Tenant

LINE = policy(slots("jobs", 1, typical_ms=1000, queue=Queue(times=3, ticket_ms=2 * HOUR_MS)), balance("credits"))


@pytest.mark.parametrize("waiting", [("wait",), ()])
async def test_its_holds_end_and_nobody_else_is_kept_from_being_swept(
    waiting: Sequence[str], tenant: Callable[[Policy], Tenant], refills: Refills
) -> None:
    lab = tenant(LINE)
    await lab.open(overrides=(Override("jobs", 1, lab.clock() + MINUTE_MS),), credits=10)
    assert isinstance(await lab.engine.reserve(lab.plan("run"), "run", WITHIN_S, Ticket(HOUR_MS)), Granted)
    for hold_id in waiting:
        asked = lab.plan(hold_id, credits=4)
        assert isinstance(await lab.engine.reserve(asked, hold_id, WITHIN_S, Ticket(HOUR_MS)), Queued)
    others = [replace(lab, ref=TenantRef("lab", f"other {n}"), account=Account(plan="free")) for n in range(4)]
    for other in others:
        await other.grant("run")
    refills.policy = replace(LINE, plans=("pro",), default_plan="pro")

    lab.clock.advance(2 * MINUTE_MS)
    assert await lab.engine.sweep() == len(others) + 1
    assert {(await each.hold("run")).state for each in (lab, *others)} == {State.EXPIRED}
    for hold_id in waiting:
        assert (await lab.hold(hold_id)).state is State.QUEUED
        lab.clock.advance(HOUR_MS)
        assert await lab.engine.sweep() == 1
        assert (await lab.hold(hold_id)).state is State.LEFT
        assert (await lab.figures())["credits"].held == 0
