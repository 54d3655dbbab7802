"""Renewals, reports on the way, and raises, on every engine."""

from collections.abc import Callable
from typing import Final

import pytest

from server.domain.errors import HoldExpiredError, InvalidRequestError
from server.domain.hold import State
from server.domain.policy import HoldTerms, Policy
from server.engine.base import Stale
from tests.policies_for_tests import MINUTE_MS, TERMS, balance, flag_gate, guard, policy, slots, window
from tests.tenants import START_MS, Tenant

Tenants = Callable[[Policy], Tenant]

LAB: Final = policy(window("rpm", 10), window("tpm", 100, "tokens"), slots("jobs", 2), balance("credits"))


async def opened(tenant: Tenants, lab_policy: Policy = LAB) -> Tenant:
    """A tenant with 100 credits and the hold `h` of 40 tokens and 40 credits."""
    lab = tenant(lab_policy)
    await lab.open(credits=100)
    await lab.grant("h", tokens=40, credits=40)
    return lab


async def used(lab: Tenant) -> dict[str, int]:
    return {limit_id: look.used for limit_id, look in (await lab.figures()).items()}


# renewing


async def test_a_renewal_moves_the_leases_end_and_nothing_else(tenant: Tenants) -> None:
    lab = await opened(tenant)
    before = await used(lab)
    lab.clock.advance(5000)

    renewed = await lab.renew("h")

    assert renewed.hold.lease_ends_at_ms == START_MS + 5000 + TERMS.lease_ms
    assert (renewed.raised, renewed.looks) == (True, ())
    assert await lab.hold("h") == renewed.hold
    assert await used(lab) == before


async def test_heartbeats_keep_long_stream(tenant: Tenants) -> None:
    lab = await opened(tenant)
    for _ in range(20):
        lab.clock.advance(TERMS.lease_ms - 1)
        await lab.renew("h")

    assert (await lab.settle("h", {"credits": 40})).state is State.SETTLED


async def test_beating_forever_ends(tenant: Tenants) -> None:
    """At exactly `longest` after the grant."""
    lab = await opened(tenant)
    ends_ms = START_MS + TERMS.longest_ms
    while lab.clock() + MINUTE_MS < ends_ms:
        lab.clock.advance(MINUTE_MS)
        assert (await lab.renew("h")).hold.lease_ends_at_ms == min(lab.clock() + TERMS.lease_ms, ends_ms)

    lab.clock.advance(ends_ms - 1 - lab.clock())
    assert (await lab.renew("h")).hold.lease_ends_at_ms == ends_ms
    lab.clock.advance(1)
    with pytest.raises(HoldExpiredError):
        await lab.renew("h")


async def test_a_renewal_never_shortens_a_lease(tenant: Tenants) -> None:
    """Not even when the clock has stepped back."""
    lab = await opened(tenant)
    lab.clock.advance(-5000)

    assert (await lab.renew("h")).hold.lease_ends_at_ms == START_MS + TERMS.lease_ms


async def test_extend_after_expiry_refused(tenant: Tenants) -> None:
    """Late by nothing: neither renewed, reported nor raised, with or without anybody having swept."""
    lab = await opened(tenant)
    lab.clock.advance(TERMS.lease_ms)

    with pytest.raises(HoldExpiredError) as error:
        await lab.renew("h", credits=7)
    with pytest.raises(HoldExpiredError):
        await lab.raise_to("h", credits=90)

    assert error.value.metadata["state"] == "EXPIRED"
    hold = await lab.hold("h")
    assert (hold.state, hold.meters["credits"][:2]) == (State.EXPIRED, (40, None))
    assert (await lab.figures())["credits"] == (100, 0, 0, -1, 0)


# reporting


async def test_a_report_is_charged_and_the_lease_renewed(tenant: Tenants) -> None:
    lab = await opened(tenant)
    lab.clock.advance(5000)

    renewed = await lab.renew("h", credits=7, tokens=3)

    assert renewed.hold.meters["credits"].reported == 7
    assert renewed.hold.lease_ends_at_ms == START_MS + 5000 + TERMS.lease_ms
    assert (await lab.figures())["credits"] == (93, 33, 33, -1, 0)


async def test_a_lower_report_changes_nothing_but_the_lease(tenant: Tenants) -> None:
    lab = await opened(tenant)
    await lab.renew("h", credits=7)

    renewed = await lab.renew("h", credits=3, tokens=1)

    assert [totals.reported for totals in renewed.hold.meters.values()] == [1, 7]


# raising


async def test_a_raise_that_fits_takes_the_difference(tenant: Tenants) -> None:
    lab = await opened(tenant)
    lab.clock.advance(1000)

    extended = await lab.raise_to("h", tokens=70, credits=90)

    assert extended.raised
    assert {name: totals.reserved for name, totals in extended.hold.meters.items()} == {"tokens": 70, "credits": 90}
    assert await used(lab) == {"rpm": 1, "tpm": 70, "jobs": 1, "credits": 90}
    assert {look.used for look in extended.looks} == {1, 70, 90}


async def test_a_raise_that_does_not_fit_renews_and_changes_no_amount(tenant: Tenants) -> None:
    lab = await opened(tenant)
    before = await used(lab)
    lab.clock.advance(1000)

    extended = await lab.raise_to("h", tokens=101, credits=41)

    assert not extended.raised
    assert [look.fits for look in extended.looks] == [True, False, True, True]
    assert extended.hold.lease_ends_at_ms == START_MS + 1000 + TERMS.lease_ms
    assert await used(lab) == before
    assert [totals.reserved for totals in (await lab.hold("h")).meters.values()] == [40, 40]


async def test_a_raise_repeated_is_no_second_raise(tenant: Tenants) -> None:
    """Amounts are totals: the same or a lower one is a no-op, also where the difference would not fit again."""
    lab = await opened(tenant)
    await lab.raise_to("h", tokens=100, credits=100)
    before = await used(lab)

    for amounts in ({"tokens": 100, "credits": 100}, {"tokens": 10}, {"credits": 0}):
        assert (await lab.raise_to("h", **amounts)).raised

    assert await used(lab) == before
    assert [totals.reserved for totals in (await lab.hold("h")).meters.values()] == [100, 100]


async def test_a_raise_of_one_meter_leaves_the_others(tenant: Tenants) -> None:
    lab = await opened(tenant)

    await lab.raise_to("h", credits=60)

    assert await used(lab) == {"rpm": 1, "tpm": 40, "jobs": 1, "credits": 60}


async def test_a_raise_takes_no_second_slot(tenant: Tenants) -> None:
    """What was taken once, the place and the request itself, is not taken again and need not fit again."""
    lab = await opened(tenant)
    lab.policy = policy(window("rpm", 1), *LAB.limits[1:2], slots("jobs", 1), LAB.limits[3])

    assert (await lab.raise_to("h", tokens=50)).raised

    assert await used(lab) == {"rpm": 1, "tpm": 50, "jobs": 1, "credits": 40}


async def test_a_raise_of_a_meter_that_the_hold_lacks_is_invalid(tenant: Tenants) -> None:
    lab = await opened(tenant)
    before = await lab.hold("h")

    with pytest.raises(InvalidRequestError) as error:
        await lab.raise_to("h", frames=1)

    assert "frames" in error.value.violations[0].field
    assert await lab.hold("h") == before


async def test_a_raise_behind_a_closed_gate_or_guard_is_refused(tenant: Tenants) -> None:
    for barrier in (flag_gate("suspended", expect=True), guard("size", 50, "tokens")):
        lab = tenant(LAB)
        lab.ref = lab.ref._replace(tenant=barrier.id)
        await lab.open(credits=100)
        await lab.grant("h", tokens=40, credits=40)
        lab.policy = policy(barrier, *LAB.limits)

        assert not (await lab.raise_to("h", tokens=60)).raised
        assert (await used(lab))["tpm"] == 40


async def test_a_raise_planned_for_another_version_is_stale(tenant: Tenants) -> None:
    """Nothing is renewed or reported; the caller plans again."""
    lab = await opened(tenant)
    raised = lab.plan(credits=50)
    await lab.open(plan="pro")
    before = await lab.hold("h")
    lab.clock.advance(1000)

    assert await lab.extend("h", raised, {"credits": 5}) == Stale(START_MS + 1000, lab.account)

    assert await lab.hold("h") == before


async def test_extend_reprices_on_failover(tenant: Tenants) -> None:
    """A dearer provider took over: the amount held is raised, or the refusal names the balance."""
    lab = await opened(tenant)
    assert (await lab.raise_to("h", credits=100)).raised
    refused = await lab.raise_to("h", credits=101)

    assert [check.wait_ms for check in refused.looks] == [0, 0, 0, -1]


async def test_a_report_and_a_raise_in_one_call(tenant: Tenants) -> None:
    """The report comes first: what it draws from the unreserved is no longer there for the raise."""
    lab = await opened(tenant)

    fits = await lab.extend("h", lab.plan(credits=60), {"credits": 30})
    too_much = await lab.extend("h", lab.plan(credits=101), {"credits": 100})

    assert not isinstance(fits, Stale)
    assert not isinstance(too_much, Stale)
    assert (fits.raised, too_much.raised) == (True, False)
    assert too_much.hold.meters["credits"] == (60, 100, 0)
    assert (await lab.figures())["credits"] == (0, 0, 0, -1, 0)


async def test_a_raise_goes_on_from_what_was_reported_beyond_the_reserve(tenant: Tenants) -> None:
    """It has been charged already: only what lies above it must fit and is held, and it comes back in full."""
    lab = await opened(tenant)
    await lab.report("h", {"tokens": 60, "credits": 70})

    assert not (await lab.raise_to("h", credits=101)).raised
    assert (await lab.raise_to("h", tokens=100, credits=100)).raised

    figures = await lab.figures()
    assert figures["tpm"].used == 100
    assert figures["credits"] == (30, 30, 30, -1, 0)
    await lab.settle("h", {"tokens": 60, "credits": 70})
    figures = await lab.figures()
    assert figures["tpm"].used == 60
    assert figures["credits"] == (30, 0, 0, -1, 0)


async def test_a_raise_to_less_than_was_reported_takes_nothing(tenant: Tenants) -> None:
    lab = await opened(tenant)
    await lab.report("h", {"tokens": 60, "credits": 70})
    before = await used(lab)

    assert (await lab.raise_to("h", tokens=55, credits=55)).raised

    assert await used(lab) == before
    assert (await lab.hold("h")).meters["credits"][:2] == (55, 70)


async def test_a_raise_takes_nothing_where_the_policy_asks_for_room(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 100, "tokens"), balance("credits", room=40)))
    await lab.open(credits=50)
    await lab.grant("h", tokens=1, credits=5)

    assert (await lab.raise_to("h", credits=90)).raised

    assert await used(lab) == {"tpm": 1, "credits": 0}
    await lab.settle("h", {"credits": 20})
    assert (await lab.figures())["credits"].cap == 30


# raised windows: parts made at different times


async def test_parts_of_a_raised_window_leave_at_their_own_times(tenant: Tenants) -> None:
    lab = await opened(tenant)
    lab.clock.advance(10_000)
    await lab.raise_to("h", tokens=70)
    lab.clock.advance(MINUTE_MS - 10_000)
    assert (await used(lab))["tpm"] == 30
    lab.clock.advance(10_000)
    assert (await used(lab))["tpm"] == 0


@pytest.mark.parametrize(
    ("total", "first", "second"),
    [(0, 0, 0), (25, 25, 0), (55, 40, 15), (70, 40, 30), (95, 40, 55)],
)
async def test_usage_fills_the_parts_in_order_and_the_last_takes_what_is_beyond(
    total: int, first: int, second: int, tenant: Tenants
) -> None:
    lab = await opened(tenant)
    lab.clock.advance(10_000)
    await lab.raise_to("h", tokens=70)

    await lab.settle("h", {"tokens": total})

    assert (await used(lab))["tpm"] == first + second
    lab.clock.advance(MINUTE_MS - 10_000)
    assert (await used(lab))["tpm"] == second


async def test_a_stream_may_be_raised_as_often_as_its_longest_lease_allows(tenant: Tenants) -> None:
    """A raise every few seconds, for a day; each answer is a grant or a refusal that names a limit."""
    day = HoldTerms(lease_ms=MINUTE_MS, longest_ms=24 * 60 * MINUTE_MS, tombstone_ms=TERMS.tombstone_ms)
    lab = tenant(policy(window("tpm", 100, "tokens"), balance("credits"), terms=day))
    await lab.open(credits=10**6)
    await lab.grant("h", tokens=1, credits=1)
    for total in range(2, 1000):
        lab.clock.advance(10_000)
        extended = await lab.raise_to("h", tokens=total, credits=total)
        assert extended.raised or not all(look.fits for look in extended.looks)

    assert extended.hold.meters["tokens"].reserved == 999
    settled = await lab.settle("h", {"tokens": 990, "credits": 995})
    assert settled.state is State.SETTLED
    assert (await lab.figures())["credits"].cap == 10**6 - 995
