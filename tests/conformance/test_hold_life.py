"""Every cell of the life-of-a-hold table, on every engine: state x event."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from server.domain.errors import (
    HoldExpiredError,
    HoldNotFoundError,
    HoldStateError,
    InvalidRequestError,
    TotalDecreasedError,
)
from server.domain.hold import TRANSITIONS, WAITING, Event, Fraction, MeterTotals, Rule, State
from server.domain.policy import HoldTerms, Policy
from tests.policies_for_tests import MINUTE_MS, TERMS, balance, only_for, policy, slots, window
from tests.tenants import Tenant

LAB: Final = policy(
    window("rpm", 10),
    window("tpm", 1000, "tokens"),
    slots("jobs", 3),
    balance("credits"),
)
RESERVED: Final[dict[str, Any]] = {"tokens": 10, "credits": 10}
USED: Final = {"tokens": 4, "credits": 4}

Tenants = Callable[[Policy], Tenant]


async def hold_in(state: State, tenant: Tenant) -> None:
    """Brings hold `h` into a state, with `USED` reported on the way wherever a report is possible."""
    if state is State.DONE:
        tenant.policy = policy(*LAB.limits[:1])
        await tenant.grant("h")
        return
    await tenant.open(credits=100)
    await tenant.grant("h", **RESERVED)
    await tenant.report("h", USED)
    if state in {State.EXPIRED, State.SETTLED_LATE}:
        tenant.clock.advance(TERMS.lease_ms)
    if state in {State.SETTLED, State.SETTLED_LATE}:
        assert (await tenant.settle("h", USED)).applied
    if state is State.RELEASED:
        assert (await tenant.release("h")).applied
    await tenant.figures()  # lets the engine expire what is overdue
    assert (await tenant.hold("h")).state is state


EVENTS: Final[dict[Event, Callable[[Tenant], Awaitable[object]]]] = {
    Event.REPORT: lambda tenant: tenant.report("h", {"tokens": 5, "credits": 5}),
    Event.SETTLE: lambda tenant: tenant.settle("h", {"tokens": 5, "credits": 5}),
    Event.RELEASE: lambda tenant: tenant.release("h"),
    Event.EXTEND: lambda tenant: tenant.renew("h"),
}


@pytest.mark.parametrize("state", [s for s in State if s not in {State.DONE, State.LEFT, *WAITING}])
@pytest.mark.parametrize("event", EVENTS)
async def test_each_event_does_in_each_state_what_the_table_says(state: State, event: Event, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)
    before, figures = await lab.hold("h"), await lab.figures()

    match TRANSITIONS[state, event]:
        case State() as expected:
            await EVENTS[event](lab)
            assert (await lab.hold("h")).state is expected
            return
        case Rule.IGNORED:
            outcome = await lab.release("h")
            assert (outcome.state, outcome.applied, outcome.meters) == (state, False, before.meters)
        case Rule.REFUSED | Rule.SAME:
            with pytest.raises((HoldStateError, HoldExpiredError)) as refused:
                await EVENTS[event](lab)
            assert refused.value.metadata == {
                "state": state.name,
                "used.tokens": "4",
                "used.credits": "4",
            }

    assert await lab.hold("h") == before
    assert await lab.figures() == figures


@pytest.mark.parametrize("state", [State.SETTLED, State.SETTLED_LATE])
async def test_an_equal_final_gets_the_same_answer(state: State, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)
    before, figures = await lab.hold("h"), await lab.figures()

    for delivered in (USED, {"tokens": 4}, None, Fraction(4, 10)):
        outcome = await lab.settle("h", delivered)
        assert (outcome.state, outcome.applied, outcome.meters) == (state, False, before.meters)

    assert await lab.hold("h") == before
    assert await lab.figures() == figures


@pytest.mark.parametrize("state", [State.SETTLED, State.SETTLED_LATE])
@pytest.mark.parametrize("total", [0, 3, 5])
async def test_another_final_is_refused_with_the_stored_totals(state: State, total: int, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)

    with pytest.raises(HoldStateError) as refused:
        await lab.settle("h", {"tokens": total})

    assert refused.value.metadata["used.tokens"] == "4"
    assert (await lab.hold("h")).meters["tokens"].reported == 4


@pytest.mark.parametrize("state", [State.SETTLED, State.SETTLED_LATE])
@pytest.mark.parametrize("total", [0, 3, 4])
async def test_a_report_up_to_the_settled_total_is_fine_and_changes_nothing(
    state: State, total: int, tenant: Tenants
) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)
    figures = await lab.figures()

    assert not (await lab.report("h", {"tokens": total})).applied

    assert await lab.figures() == figures


@pytest.mark.parametrize("state", [State.ACTIVE, State.EXPIRED])
async def test_a_final_below_an_earlier_report_is_refused_with_the_stored_totals(state: State, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)
    before, figures = await lab.hold("h"), await lab.figures()

    with pytest.raises(TotalDecreasedError) as refused:
        await lab.settle("h", {"tokens": 3, "credits": 7})

    assert refused.value.metadata == {"state": state.name, "used.tokens": "4", "used.credits": "4"}
    assert await lab.hold("h") == before
    assert await lab.figures() == figures


@pytest.mark.parametrize("state", [State.ACTIVE, State.EXPIRED])
async def test_a_lower_report_is_ignored(state: State, tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(state, lab)
    before = await lab.hold("h")

    outcome = await lab.report("h", {"tokens": 3, "credits": 1})

    assert (outcome.state, outcome.applied) == (state, False)
    assert await lab.hold("h") == before


async def test_a_report_that_rises_on_one_meter_and_falls_on_another_raises_the_one(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(State.ACTIVE, lab)

    assert (await lab.report("h", {"tokens": 3, "credits": 7})).applied

    meters = (await lab.hold("h")).meters
    assert (meters["tokens"].reported, meters["credits"].reported) == (4, 7)


async def test_a_decision_of_windows_alone_is_done_and_answers_every_settle_and_release(tenant: Tenants) -> None:
    """There is nothing to settle, so whatever a gateway sends by habit is fine and changes nothing."""
    lab = tenant(LAB)
    await hold_in(State.DONE, lab)
    figures = await lab.figures()

    for outcome in (
        await lab.settle("h"),
        await lab.settle("h", {"tokens": 5}),
        await lab.settle("h", Fraction(1, 2)),
        await lab.report("h", {"tokens": 5}),
        await lab.release("h"),
    ):
        assert (outcome.state, outcome.applied, outcome.meters) == (State.DONE, False, {})
    with pytest.raises(HoldStateError):
        await lab.renew("h")

    assert await lab.figures() == figures
    assert (await lab.hold("h")).lease_ends_at_ms == 0


async def test_a_report_on_a_meter_that_the_hold_lacks_is_invalid_and_named(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await hold_in(State.ACTIVE, lab)
    before = await lab.hold("h")

    with pytest.raises(InvalidRequestError) as settled:
        await lab.settle("h", {"tokens": 5, "frames": 1})
    with pytest.raises(InvalidRequestError) as renewed:
        await lab.renew("h", frames=1)

    assert settled.value.violations[0].field == "usage.used[frames]"
    assert renewed.value.violations[0].field == "used[frames]"
    assert await lab.hold("h") == before


async def test_settle_after_release(tenant: Tenants) -> None:
    """A fallback that released first leaves nothing to settle: no credit is minted, whatever is reported."""
    lab = tenant(LAB)
    await hold_in(State.RELEASED, lab)
    figures = await lab.figures()

    for delivered in (None, USED, {"frames": 1}, Fraction(1, 1)):
        with pytest.raises(HoldStateError):
            await lab.settle("h", delivered)

    assert await lab.figures() == figures


@pytest.mark.parametrize("hold_id", ["never made", "h"])
async def test_what_was_never_granted_is_not_found(hold_id: str, tenant: Tenants) -> None:
    """Neither an id that nobody used nor one whose request was refused."""
    lab = tenant(LAB)
    await lab.refusal("h", tokens=1001)
    for operation in (lab.settle(hold_id), lab.report(hold_id), lab.release(hold_id), lab.renew(hold_id)):
        with pytest.raises(HoldNotFoundError):
            await operation
    with pytest.raises(HoldNotFoundError):
        await lab.raise_to(hold_id, tokens=1)
    with pytest.raises(HoldNotFoundError):
        await lab.settle(hold_id, ("item",))
    assert (await lab.find(hold_id)).hold is None


async def test_another_tenant_does_not_find_the_hold(tenant: Tenants) -> None:
    lab, other = tenant(LAB), tenant(LAB)
    other.ref = other.ref._replace(tenant="other")
    await hold_in(State.ACTIVE, lab)
    before = await lab.hold("h")

    with pytest.raises(HoldNotFoundError):
        await other.settle("h", USED)

    assert await lab.hold("h") == before


async def test_a_tombstone_ends_after_its_time(tenant: Tenants) -> None:
    short = HoldTerms(lease_ms=MINUTE_MS, longest_ms=MINUTE_MS, tombstone_ms=30, replay_ms=30)
    lab = tenant(policy(window("rpm", 10), only_for(slots("jobs", 3), "work"), terms=short))
    await lab.grant("ended")
    await lab.grant("done", action="rest")
    await lab.release("ended")

    await gone(lab, "ended")
    await gone(lab, "done")


async def gone(lab: Tenant, hold_id: str) -> None:
    """Waits until the record has ended: in memory by the injected clock, in a store by the store's own."""
    for _ in range(5000):
        if (await lab.find(hold_id)).hold is None:
            return
        lab.clock.advance(1)
    raise AssertionError(f"{hold_id} is still there")


async def test_meters_are_told_with_what_was_reserved_and_reported(tenant: Tenants) -> None:
    lab = tenant(LAB)
    await lab.open(credits=100)
    await lab.grant("h", **RESERVED)

    reported = await lab.report("h", {"credits": 0})
    settled = await lab.settle("h")

    assert reported.meters == {"tokens": MeterTotals(10, None, 0), "credits": MeterTotals(10, 0, 0)}
    assert settled.meters == {"tokens": MeterTotals(10, 10, 0), "credits": MeterTotals(10, 0, 0)}
