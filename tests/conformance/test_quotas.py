"""Quotas, on every engine: cycles, overage, grace, enforcement, thresholds, and nothing delivered that is lost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from server.domain.hold import State
from server.domain.limits.base import Look
from server.domain.limits.quota import PAST_CYCLES, CycleUse
from server.domain.operation import Operation
from server.domain.plan import usage_plan
from server.domain.policy import HoldTerms, Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import AccountWrite, CycleImport, Cycles
from tests.policies_for_tests import HOUR_MS, policy, quota, slots, window
from tests.tenants import EVERYWHERE, WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

DAY_MS: Final = 24 * HOUR_MS
MARCH_MS: Final = 1_772_323_200_000
APRIL_MS: Final = 1_775_001_600_000
MAY_MS: Final = 1_777_593_600_000
TO_APRIL_MS: Final = APRIL_MS - 1_773_144_000_000
"""From the clock's first instant, 10 March at noon, to the end of the calendar month."""
MONTHS: Final = HoldTerms(lease_ms=60 * DAY_MS, longest_ms=700 * DAY_MS, tombstone_ms=700 * DAY_MS)


async def cycles(lab: Tenant) -> list[CycleUse]:
    """The cycles of the policy's first quota, the latest first."""
    operation = Operation(ref=lab.ref, action="", scope=EVERYWHERE)
    answer = await lab.engine.cycles(usage_plan(lab.policy, operation, lab.account, lab.clock()), WITHIN_S)
    assert isinstance(answer, Cycles), answer
    return list(answer.cycles[0])


async def use(lab: Tenant, hold_id: str, units: int) -> None:
    """Reserves units and settles them all."""
    await lab.grant(hold_id, frames=units)
    await lab.settle(hold_id)


def split(cycle: CycleUse) -> tuple[int, int, int, int, int]:
    return cycle.within, cycle.overage, cycle.grace, cycle.over_hard, cycle.held


async def test_units_are_held_and_then_used(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 1000)))
    await lab.grant("h", frames=200)
    assert (await lab.figures())["q"] == Look(1000, 200, 200, TO_APRIL_MS, 0)
    await lab.settle("h", {"frames": 150})
    assert (await lab.figures())["q"] == Look(1000, 150, 0, TO_APRIL_MS, 0)
    await lab.grant("r", frames=100)
    await lab.release("r")
    (cycle,) = await cycles(lab)
    assert split(cycle) == (150, 0, 0, 0, 0)
    assert (cycle.terms.start_ms, cycle.terms.end_ms) == (MARCH_MS, APRIL_MS)


async def test_a_hard_quota_takes_whole_requests_only(tenant: Tenants) -> None:
    """Held units count, and the hint is the end of the cycle, exactly."""
    lab = tenant(policy(quota("q", 1000)))
    await use(lab, "a", 998)
    await lab.grant("b", frames=1)
    assert (await lab.refusal(frames=2))["q"] == Look(1000, 999, 1, TO_APRIL_MS, TO_APRIL_MS)
    await lab.grant("c", frames=1)
    look = (await lab.refusal(frames=1))["q"]
    await lab.settle("b")
    await lab.settle("c")
    lab.clock.advance(look.wait_ms - 1)
    await lab.refusal(frames=1)
    lab.clock.advance(1)
    await lab.grant("d", frames=1)
    assert (await lab.refusal(frames=1001))["q"].wait_ms == -1


async def test_units_above_the_limit_are_billed_up_to_the_overage(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10, overage=5, price=200)))
    await use(lab, "a", 12)
    assert (await lab.refusal(frames=4))["q"].used == 12
    await use(lab, "b", 3)
    await lab.refusal(frames=1)
    (cycle,) = await cycles(lab)
    assert (split(cycle), cycle.overage_price) == ((10, 5, 0, 0, 0), 1000)


async def test_unlimited_overage_is_never_refused(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10, overage=None, price=200)))
    await use(lab, "a", 10**12)
    (cycle,) = await cycles(lab)
    assert (split(cycle), cycle.exhausted_at_ms) == ((10, 10**12 - 10, 0, 0, 0), 0)


async def test_an_unlimited_quota_counts(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", None)))
    await use(lab, "a", 10**12)
    assert (await lab.figures())["q"].used == 10**12
    assert (await lab.refusal(frames=MAX_AMOUNT))["q"].wait_ms > 0  # more than a cell can count


async def test_grace_begins_when_settled_use_reaches_the_limit_and_ends_exactly(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, grace_ms=DAY_MS)))
    await lab.grant("held", frames=500)
    lab.clock.advance(HOUR_MS)  # the lease has ended; holds never began the grace
    await use(lab, "a", 99)
    assert (await cycles(lab))[0].exhausted_at_ms == 0
    await use(lab, "b", 31)
    exhausted_at_ms = lab.clock()
    (cycle,) = await cycles(lab)
    assert (split(cycle), cycle.exhausted_at_ms) == ((100, 0, 30, 0, 0), exhausted_at_ms)
    assert cycle.grace_ends_at_ms == exhausted_at_ms + DAY_MS
    lab.clock.advance(DAY_MS - 1)
    await lab.grant("last", frames=7)
    lab.clock.advance(1)
    await lab.refusal(frames=1)
    await lab.renew("last")
    assert not (await lab.raise_to("last", frames=8)).raised
    await lab.settle("last", {"frames": 9})
    assert split((await cycles(lab))[0]) == (100, 0, 39, 0, 0)


async def test_what_is_delivered_beyond_enforcement_is_recorded_in_full(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10)))
    await lab.grant("h", frames=10)
    await lab.settle("h", {"frames": 25})
    (cycle,) = await cycles(lab)
    assert (split(cycle), cycle.used) == ((10, 0, 0, 15, 0), 25)


async def test_a_raised_limit_clears_the_exhaustion_and_a_later_one_has_a_fresh_grace(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", {"free": 100, "pro": 200}, grace_ms=DAY_MS)))
    await use(lab, "a", 100)
    lab.clock.advance(2 * DAY_MS)
    await lab.refusal(frames=1)
    await lab.open(plan="pro")
    await use(lab, "b", 99)
    assert (await cycles(lab))[0].exhausted_at_ms == 0
    await use(lab, "c", 1)
    assert (await cycles(lab))[0].exhausted_at_ms == lab.clock()
    lab.clock.advance(DAY_MS - 1)
    await use(lab, "d", 1)
    lab.clock.advance(1)
    await lab.refusal(frames=1)


async def test_a_lowered_limit_is_exhausted_from_the_first_request_that_meets_it(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", {"free": 200, "pro": 100}, grace_ms=DAY_MS)))
    await use(lab, "a", 150)
    lab.clock.advance(2 * DAY_MS)
    await lab.open(plan="pro")
    await lab.grant("b", frames=1)
    assert (await cycles(lab))[0].exhausted_at_ms == lab.clock()
    lab.clock.advance(DAY_MS)
    await lab.refusal(frames=1)


async def test_a_hold_belongs_to_the_cycle_that_it_was_taken_in(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 1000), terms=MONTHS))
    lab.clock.now_ms = APRIL_MS - 1000
    await lab.grant("h", frames=100)
    lab.clock.now_ms = APRIL_MS
    assert (await lab.figures())["q"].used == 0
    await lab.grant("new", frames=5)
    await lab.settle("h", {"frames": 80})
    assert [split(cycle) for cycle in await cycles(lab)] == [(0, 0, 0, 0, 5), (80, 0, 0, 0, 0)]


async def test_a_raise_in_the_next_cycle_belongs_to_that_one(tenant: Tenants) -> None:
    """The first part stays where it was taken; what is used beyond goes with the newest part."""
    lab = tenant(policy(quota("q", 1000), terms=MONTHS))
    lab.clock.now_ms = APRIL_MS - 1000
    await lab.grant("h", frames=100)
    assert (await lab.raise_to("h", frames=150)).raised
    lab.clock.now_ms = APRIL_MS
    assert (await lab.raise_to("h", frames=170)).raised
    assert (await lab.raise_to("h", frames=180)).raised
    assert [split(cycle) for cycle in await cycles(lab)] == [(0, 0, 0, 0, 30), (0, 0, 0, 0, 150)]
    await lab.settle("h", {"frames": 200})
    assert [split(cycle) for cycle in await cycles(lab)] == [(50, 0, 0, 0, 0), (150, 0, 0, 0, 0)]


async def test_a_clock_that_goes_back_finds_the_earlier_cycle_again(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 1000)))
    await use(lab, "march", 10)
    lab.clock.now_ms = APRIL_MS
    await use(lab, "april", 20)
    lab.clock.now_ms = APRIL_MS - 1
    await use(lab, "march again", 30)
    lab.clock.now_ms = MARCH_MS - 1
    await use(lab, "february", 5)
    assert [cycle.used for cycle in await cycles(lab)] == [20, 40, 5]


async def test_a_cell_keeps_a_year_of_cycles_and_older_ones_with_open_holds(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10**6), terms=replace(MONTHS, lease_ms=600 * DAY_MS)))
    await lab.grant("old", frames=7)
    for month in range(PAST_CYCLES + 3):
        lab.clock.advance(31 * DAY_MS)
        await use(lab, f"m{month}", 1)
    known = await cycles(lab)
    assert [cycle.held for cycle in known] == [0] * (PAST_CYCLES + 3) + [7]
    await lab.settle("old")
    lab.clock.advance(31 * DAY_MS)
    await use(lab, "last", 1)
    assert [cycle.used for cycle in await cycles(lab)] == [1] * (PAST_CYCLES + 1)


async def test_use_of_a_cycle_that_is_forgotten_goes_to_the_oldest_one(tenant: Tenants) -> None:
    """It can only come with a late settle, more than a year after the hold expired; it is not lost."""
    lab = tenant(policy(quota("q", 10**6), terms=MONTHS))
    await lab.grant("old", frames=7)
    for month in range(PAST_CYCLES + 3):
        lab.clock.advance(31 * DAY_MS)
        await use(lab, f"m{month}", 1)
    assert (await lab.settle("old", {"frames": 7})).state is State.SETTLED_LATE
    assert [cycle.used for cycle in await cycles(lab)] == [*[1] * PAST_CYCLES, 8]


async def test_a_late_settle_is_recorded_once(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 1000)))
    await lab.grant("h", frames=100)
    lab.clock.advance(120_000)
    assert (await lab.figures())["q"].held == 0
    lab.clock.advance(10_000)
    assert (await lab.settle("h", {"frames": 40})).applied
    assert not (await lab.settle("h", {"frames": 40})).applied
    assert (await lab.figures())["q"].used == 40


async def test_use_is_recorded_where_nothing_was_reserved(tenant: Tenants) -> None:
    """A hold of no units at all opens its cycle, so that a settle finds it."""
    lab = tenant(policy(quota("q", 10)))
    await lab.grant("h", frames=0)
    await lab.settle("h", {"frames": 3})
    assert split((await cycles(lab))[0]) == (3, 0, 0, 0, 0)


async def test_room_is_looked_for_in_the_same_cell_and_nothing_is_taken(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10, room=3)))
    await lab.grant("h", action="rest", frames=7)
    await lab.grant()
    await lab.settle("h", {"frames": 8})
    assert (await lab.refusal())["q"].used == 8


async def test_a_refusal_elsewhere_takes_nothing(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100), quota("p", None, scope=("project",)), window("rpm", 1), slots("jobs", 5)))
    await lab.grant("a", frames=1)
    before = await lab.figures()
    await lab.refusal("b", frames=1)
    assert await lab.figures() == before


async def test_projects_are_counted_apart(tenant: Tenants) -> None:
    lab = tenant(policy(quota("org", 1000), quota("each", None, scope=("project",))))
    for project, units in (("p1", 120), ("p2", 80)):
        await lab.grant(project, scope={"project": project}, frames=units)
        await lab.settle(project)
    assert (await lab.figures({"project": "p1"}))["each"].used == 120
    figures = await lab.figures({"project": "p2"})
    assert (figures["each"].used, figures["org"].used) == (80, 200)


async def test_each_threshold_is_noted_once_for_each_cycle_and_value_of_the_limit(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", {"free": 100, "pro": 200}, "frames", overage=None)))

    async def noted() -> list[tuple[int, int, int, int]]:
        notes = await lab.engine.notes(lab.ref, "", 100, WITHIN_S)
        assert {(note.cell, note.scope) for note in notes} <= {("q~q", ())}
        return [(note.cycle_ms, note.percent, note.limit, note.used) for note in notes]

    await use(lab, "a", 79)
    assert await noted() == []
    await lab.grant("b", frames=50)
    await lab.report("b", {"frames": 1})
    march = [(MARCH_MS, 80, 100, 80)]
    assert await noted() == march
    await lab.report("b", {"frames": 1})
    await lab.settle("b", {"frames": 25})
    await use(lab, "c", 10)
    march.append((MARCH_MS, 100, 100, 104))
    assert await noted() == march
    await lab.open(plan="pro")
    await use(lab, "d", 46)
    march.append((MARCH_MS, 80, 200, 160))
    assert await noted() == march
    lab.clock.now_ms = APRIL_MS
    await use(lab, "e", 200)
    assert await noted() == [*march, (APRIL_MS, 80, 200, 200), (APRIL_MS, 100, 200, 200)]


async def test_use_that_happened_elsewhere_is_booked_once_for_each_id(tenant: Tenants) -> None:
    """Added to what is known, split by the terms of now, and what it crosses is noted by the next settle."""
    lab = tenant(policy(quota("q", 100, overage=20, grace_ms=DAY_MS), slots("jobs", 5)))
    await use(lab, "a", 50)
    check = lab.plan().shape.checks[0]
    write = AccountWrite(uses=(CycleImport(check, 80),), write_id="w", fingerprint=b"x")
    for _ in range(2):
        await lab.write(write)
    (cycle,) = await cycles(lab)
    assert (split(cycle), cycle.exhausted_at_ms) == ((100, 20, 10, 0, 0), lab.clock())
    assert await lab.engine.notes(lab.ref, "", 9, WITHIN_S) == []
    await use(lab, "b", 1)
    assert [note.percent for note in await lab.engine.notes(lab.ref, "", 9, WITHIN_S)] == [80, 100]
    await lab.write(replace(write, uses=(CycleImport(check, 0),), write_id="nothing"))
    assert (await cycles(lab))[0].used == 131


async def test_notes_are_listed_in_pages(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, thresholds=(10, 20, 30))))
    await use(lab, "a", 50)
    first = await lab.engine.notes(lab.ref, "", 2, WITHIN_S)
    rest = await lab.engine.notes(lab.ref, first[-1].note_id, 2, WITHIN_S)
    assert [note.percent for note in (*first, *rest)] == [10, 20, 30]
