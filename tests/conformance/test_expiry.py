"""What the end of a lease does, kind by kind, on every engine, whether or not anybody swept."""

from collections.abc import Callable
from typing import Final

import pytest

from server.domain.hold import MeterTotals, State
from server.domain.policy import Policy
from server.engine.base import Granted
from tests.policies_for_tests import HOUR_MS, TERMS, balance, policy, slots, window
from tests.tenants import START_MS, Tenant

Tenants = Callable[[Policy], Tenant]

LAB: Final = policy(
    window("rpm", 10, window_ms=HOUR_MS, returns=True),
    window("tpm", 1000, "tokens", window_ms=HOUR_MS),
    slots("jobs", 2),
    balance("credits"),
)
USED_AFTER: Final = {"rpm": 1, "tpm": 300, "jobs": 0, "credits": 0}


@pytest.mark.parametrize("first", ["look", "reserve", "settle", "release", "extend", "sweep"])
async def test_whoever_comes_first_finds_the_lease_ended(first: str, tenant: Tenants) -> None:
    """Slots go back, windows keep what was reserved, balances keep the last report and return the rest."""
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("other", credits=0)
    await lab.report("other", {"credits": 0})
    lab.clock.advance(1000)
    await lab.settle("other")
    await lab.grant("h", tokens=300, credits=40)
    await lab.report("h", {"tokens": 20, "credits": 15})

    lab.clock.advance(TERMS.lease_ms)
    if first == "reserve":
        looks = (await lab.grant("next", tokens=0, credits=85)).looks
        assert [look.used for look in looks] == [3, 300, 1, 85]
        await lab.settle("next", {"credits": 0})
    elif first == "settle":
        assert not (await lab.settle("other")).applied
    elif first == "release":
        assert (await lab.release("h")).state is State.EXPIRED
    elif first == "extend":
        await lab.grant("live")
        await lab.renew("live")
        await lab.release("live")
    elif first == "sweep":
        assert await lab.engine.sweep() == 1

    figures = await lab.figures()
    assert (figures["tpm"].used, figures["jobs"].used) == (300, 0)
    assert figures["credits"] == (85, 0, 0, -1, 0)
    hold = await lab.hold("h")
    assert hold.state is State.EXPIRED
    assert hold.meters == {"tokens": MeterTotals(300, 20, 0), "credits": MeterTotals(40, 15, 0)}


async def test_expiry_keeps_a_report_above_the_reserve(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", tokens=300, credits=40)
    await lab.report("h", {"tokens": 350, "credits": 60})

    lab.clock.advance(TERMS.lease_ms)

    figures = await lab.figures()
    assert (figures["tpm"].used, figures["credits"].cap) == (350, 40)


async def test_a_late_settle_corrects_the_window_that_expiry_left(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", tokens=300, credits=40)
    lab.clock.advance(TERMS.lease_ms)
    assert (await lab.figures())["tpm"].used == 300

    await lab.settle("h", {"tokens": 50, "credits": 5})

    figures = await lab.figures()
    assert (figures["tpm"].used, figures["credits"].cap, figures["jobs"].used) == (50, 95, 0)


async def test_each_hold_ends_at_its_own_time(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 10)))
    for number in range(5):
        await lab.grant(f"h{number}")
        lab.clock.advance(1000)

    lab.clock.advance(START_MS + TERMS.lease_ms - lab.clock())
    for left in range(4, -1, -1):
        assert (await lab.figures())["jobs"].used == left
        lab.clock.advance(1000)


async def test_old_holds_keep_policy(tenant: Tenants) -> None:
    """A hold ends by the terms and the cells that it was made with, whatever the policy says now."""
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", tokens=300, credits=40)
    lab.policy = policy(window("new", 5, "tokens"), balance("credits"))
    await lab.grant("under the new", tokens=1)

    await lab.settle("h", {"tokens": 10, "credits": 10})

    assert (await lab.figures())["new"].used == 1
    lab.policy = LAB
    figures = await lab.figures()
    assert [look.used for look in figures.values()] == [1, 10, 0, 0]
    assert figures["credits"].cap == 90


async def test_expired_holds_do_not_stop_a_replay(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.grant("h", tokens=300)
    lab.clock.advance(TERMS.lease_ms)

    again = await lab.reserve(lab.plan("h", tokens=300))

    assert not isinstance(again, Granted)
    assert (await lab.figures())["jobs"].used == 0


async def test_open_holds_are_listed_by_lease_end(tenant: Tenants) -> None:
    """Page by page, each once, also where many end at the same instant."""
    lab = tenant(policy(slots("jobs", 20)))
    for number in range(7):
        await lab.grant(f"same{number}")
    lab.clock.advance(1)
    await lab.grant("a later one")
    await lab.release("same3")

    found: list[str] = []
    after = (0, "")
    while page := await lab.engine.open_holds(lab.ref, after, 3, 1):
        found += [hold.hold_id for hold in page]
        after = (page[-1].lease_ends_at_ms, page[-1].hold_id)
        assert len(page) <= 3

    assert found == ["same0", "same1", "same2", "same4", "same5", "same6", "a later one"]
