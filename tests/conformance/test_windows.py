"""Rolling windows, on every engine: exact boundaries, exact hints, merging under heavy traffic, clock steps."""

from collections.abc import Callable
from typing import Final

import pytest

from server.domain.policy import Policy
from server.engine.base import Granted, Refused
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, policy, window
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]

TPM: Final = policy(window("tpm", 100, "tokens"))


async def used(lab: Tenant, limit_id: str = "tpm") -> int:
    return (await lab.figures())[limit_id].used


# boundaries


async def test_an_entry_counts_until_exactly_a_window_later(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=100)

    lab.clock.advance(MINUTE_MS - 1)
    looks = await lab.refusal(tokens=1)
    assert (looks["tpm"].used, looks["tpm"].wait_ms, looks["tpm"].reset_ms) == (100, 1, 1)
    lab.clock.advance(1)
    assert (await lab.figures())["tpm"][:4] == (100, 0, 0, 0)
    await lab.grant("b", tokens=100)


async def test_no_burst_at_window_edge(tenant: Tenants) -> None:
    """Twice the limit fired around the minute: never more than the limit in any 60 seconds."""
    lab = tenant(policy(window("rpm", 10)))
    lab.clock.advance(MINUTE_MS - lab.clock() % MINUTE_MS - 500)
    granted_at: list[int] = []
    for _ in range(200):
        answer = await lab.reserve(lab.plan())
        if isinstance(answer, Granted):
            granted_at.append(lab.clock())
        lab.clock.advance(997)

    fullest = max(sum(at - MINUTE_MS < other <= at for other in granted_at) for at in granted_at)
    assert fullest == 10
    assert len(granted_at) == 40


async def test_several_windows_of_one_scope_count_side_by_side(tenant: Tenants) -> None:
    lab = tenant(
        policy(window("minute", 2), window("hour", 3, window_ms=HOUR_MS), window("tpm", 100, "tokens", scope=()))
    )
    await lab.grant()
    await lab.grant()
    await lab.refusal()
    lab.clock.advance(MINUTE_MS)
    await lab.grant()

    looks = await lab.refusal()

    assert (looks["minute"].wait_ms, looks["hour"].wait_ms) == (0, HOUR_MS - MINUTE_MS)


# hints


@pytest.mark.parametrize("needed", [1, 10, 11, 60, 61, 100])
async def test_waiting_the_hint_admits(needed: int, tenant: Tenants) -> None:
    """Waiting exactly that long is enough, and one millisecond less is not."""
    lab = tenant(TPM)
    for number, amount in enumerate((10, 50, 40)):
        await lab.grant(f"h{number}", tokens=amount)
        lab.clock.advance(7000)

    wait_ms = (await lab.refusal(tokens=needed))["tpm"].wait_ms
    lab.clock.advance(wait_ms - 1)
    assert (await lab.refusal(tokens=needed))["tpm"].wait_ms == 1
    lab.clock.advance(1)
    await lab.grant("fits", tokens=needed)


async def test_hint_is_longest_blocker(tenant: Tenants) -> None:
    """Each limit tells its own wait; waiting the longest of them admits."""
    lab = tenant(policy(window("minute", 1), window("hour", 1, window_ms=HOUR_MS)))
    await lab.grant()

    waits = [look.wait_ms for look in (await lab.refusal()).values()]
    lab.clock.advance(max(waits) - 1)
    await lab.refusal()
    lab.clock.advance(1)

    assert waits == [MINUTE_MS, HOUR_MS]
    await lab.grant()


async def test_more_than_the_limit_itself_has_no_hint(tenant: Tenants) -> None:
    lab = tenant(TPM)

    assert (await lab.refusal(tokens=101))["tpm"].wait_ms == -1
    await lab.grant("a", tokens=1)
    assert (await lab.refusal(tokens=101))["tpm"].wait_ms == -1


async def test_hammering_does_not_extend_lockout(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=100)
    promised_ms = lab.clock() + MINUTE_MS
    while lab.clock() < promised_ms:
        assert (await lab.refusal(tokens=1))["tpm"].wait_ms == promised_ms - lab.clock()
        lab.clock.advance(100)

    await lab.grant("b", tokens=100)


# settling


async def test_a_settle_corrects_the_entry_of_its_reserve(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)
    lab.clock.advance(1000)
    await lab.grant("b", tokens=40)
    lab.clock.advance(1000)

    await lab.settle("a", {"tokens": 5})

    assert await used(lab) == 45
    assert (await lab.refusal(tokens=96))["tpm"].wait_ms == MINUTE_MS - 1000
    lab.clock.advance(MINUTE_MS - 2000)
    assert await used(lab) == 40


async def test_refund_stays_in_its_window(tenant: Tenants) -> None:
    """A release after the window turned leaves the new window alone."""
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)
    lab.clock.advance(MINUTE_MS)
    await lab.grant("b", tokens=50)

    await lab.settle("a", {"tokens": 0})
    assert await used(lab) == 50

    lab.clock.advance(MINUTE_MS)
    await lab.grant("c", tokens=40)
    await lab.release("b")
    assert await used(lab) == 40


async def test_usage_beyond_the_reserve_counts_in_full(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)

    reported = await lab.report("a", {"tokens": 90})
    assert (reported.applied, await used(lab)) == (True, 90)
    await lab.settle("a", {"tokens": 250})

    assert await used(lab) == 250
    assert (await lab.refusal(tokens=1))["tpm"].wait_ms == MINUTE_MS


async def test_a_report_below_the_reserve_frees_nothing_yet(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)

    await lab.report("a", {"tokens": 10})

    assert await used(lab) == 60


async def test_usage_of_a_reserve_of_zero_counts_in_full(tenant: Tenants) -> None:
    """Nothing was asked for, and then there was usage after all: it counts from when it was reserved."""
    lab = tenant(TPM)
    granted = await lab.grant("a", tokens=0)
    before = (await lab.figures())["tpm"]
    lab.clock.advance(1000)

    await lab.settle("a", {"tokens": 30})

    assert (granted.looks[0].used, granted.looks[0].reset_ms) == (0, 0)
    assert (before.used, before.reset_ms) == (0, 0)
    after = (await lab.figures())["tpm"]
    assert (after.used, after.reset_ms) == (30, MINUTE_MS - 1000)


async def test_usage_after_a_neighbour_of_the_same_instant_settled_to_zero_counts(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=0)
    await lab.grant("b", tokens=40)
    await lab.settle("b", {"tokens": 0})
    lab.clock.advance(1000)

    await lab.settle("a", {"tokens": 30})

    assert await used(lab) == 30


async def test_usage_of_a_reserve_of_zero_does_not_count_with_a_later_entry(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=0)
    lab.clock.advance(1000)
    await lab.grant("b", tokens=40)
    await lab.settle("a", {"tokens": 30})

    lab.clock.advance(MINUTE_MS - 1000)

    assert await used(lab) == 40


async def test_nothing_left_in_a_window_resets_nothing(tenant: Tenants) -> None:
    """What was given back is gone for every figure: the reset is that of what still counts."""
    lab = tenant(TPM)
    await lab.grant("a", tokens=40)
    lab.clock.advance(1000)
    await lab.grant("b", tokens=40)
    await lab.settle("a", {"tokens": 0})
    assert (await lab.figures())["tpm"][:4] == (100, 40, 0, MINUTE_MS)

    await lab.settle("b", {"tokens": 0})

    assert (await lab.figures())["tpm"][:4] == (100, 0, 0, 0)


@pytest.mark.parametrize(("returns", "left"), [(True, 1), (False, 2)])
async def test_a_release_returns_the_request_where_the_policy_says_so(
    returns: bool,  # noqa: FBT001  # a parameter of the table
    left: int,
    tenant: Tenants,
) -> None:
    lab = tenant(policy(window("rpm", 2, returns=returns), window("tpm", 100, "tokens")))
    await lab.grant("a", tokens=30)
    await lab.grant("b", tokens=30)

    await lab.release("a")
    await lab.settle("b")

    assert (await used(lab, "rpm"), await used(lab, "tpm")) == (left, 30)


# bounded size: merging


HEAVY_MS: Final = 25
"""Milliseconds between requests: 2,400 of them in a window, more than it keeps entries."""


async def test_heavy_traffic_counts_never_shorter_and_hardly_longer(tenant: Tenants) -> None:
    """Entries may be merged, into the later instant and within a thousandth of the window.

    So at any time the sum is at least the exact one, and at most what was exact a thousandth of a window ago.
    """
    lab = tenant(policy(window("tpm", 10**9, "tokens")))
    made: list[tuple[int, int]] = []
    spread_ms = MINUTE_MS // 1000
    for number in range(3000):
        amount = number % 13 + 1
        (look,) = (await lab.grant(tokens=amount)).looks
        made.append((lab.clock(), amount))
        now_ms = lab.clock()
        if number % 50 == 0 or number > 2800:
            exact = sum(a for at, a in made if at > now_ms - MINUTE_MS)
            longer = sum(a for at, a in made if at > now_ms - MINUTE_MS - spread_ms)
            assert exact <= look.used <= longer
        lab.clock.advance(HEAVY_MS)
    while await used(lab):
        now_ms = lab.clock()
        exact = sum(a for at, a in made if at > now_ms - MINUTE_MS)
        longer = sum(a for at, a in made if at > now_ms - MINUTE_MS - spread_ms)
        assert exact <= await used(lab) <= longer
        lab.clock.advance(137)
    assert lab.clock() <= made[-1][0] + MINUTE_MS + 137


async def test_up_to_sixty_four_instants_are_kept_apart(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 10**6, "tokens")))
    for _ in range(64):
        await lab.grant(tokens=1)
        lab.clock.advance(1)

    lab.clock.advance(MINUTE_MS - 64)
    for left in range(63, -1, -1):
        assert await used(lab) == left
        lab.clock.advance(1)


async def test_waiting_the_hint_admits_after_merging(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 500, "tokens")))
    for _ in range(500):
        await lab.grant(tokens=1)
        lab.clock.advance(HEAVY_MS)

    wait_ms = (await lab.refusal(tokens=77))["tpm"].wait_ms
    lab.clock.advance(wait_ms - 1)
    assert (await lab.refusal(tokens=77))["tpm"].wait_ms == 1
    lab.clock.advance(1)
    await lab.grant("fits", tokens=77)


async def test_a_settle_finds_its_entry_after_merging(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 10**6, "tokens")))
    for number in range(200):
        await lab.grant(f"h{number}", tokens=10)
        lab.clock.advance(HEAVY_MS)

    for number in range(200):
        await lab.settle(f"h{number}", {"tokens": number % 20})
        expected = sum(n % 20 for n in range(number + 1)) + 10 * (199 - number)
        assert await used(lab) == expected

    lab.clock.advance(MINUTE_MS + MINUTE_MS // 1000)
    assert await used(lab) == 0


# the clock steps back


@pytest.mark.parametrize("step_ms", [1, 5000, 5 * MINUTE_MS])
async def test_clock_step_locks_out_for_no_longer_than_a_window(step_ms: int, tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)
    lab.clock.advance(1000)
    await lab.grant("b", tokens=40)

    lab.clock.advance(-step_ms)
    looks = await lab.refusal(tokens=100)
    assert looks["tpm"].used == 100
    assert looks["tpm"].wait_ms == MINUTE_MS
    lab.clock.advance(MINUTE_MS - 1000)
    assert await used(lab) == 40
    lab.clock.advance(1000)

    await lab.grant("c", tokens=100)


async def test_after_a_step_back_no_real_window_admits_more_than_the_limit(tenant: Tenants) -> None:
    """Real time runs on while the store's clock repeats five minutes."""
    lab = tenant(policy(window("rpm", 10)))
    granted_at: list[int] = []
    for real_ms in range(0, 10 * MINUTE_MS, 1500):
        if real_ms == 6 * MINUTE_MS:
            lab.clock.advance(-5 * MINUTE_MS)
        answer = await lab.reserve(lab.plan())
        assert isinstance(answer, Granted | Refused)
        if isinstance(answer, Granted):
            granted_at.append(real_ms)
        lab.clock.advance(1500)

    assert max(sum(at - MINUTE_MS < other <= at for other in granted_at) for at in granted_at) == 10


async def test_a_refusal_forgets_nothing_that_a_clock_that_steps_back_finds_again(tenant: Tenants) -> None:
    lab = tenant(TPM)
    await lab.grant("a", tokens=60)
    lab.clock.advance(MINUTE_MS)
    await lab.refusal(tokens=101)

    lab.clock.advance(-1)

    assert await used(lab) == 60


async def test_what_was_given_back_after_a_step_is_not_taken_from_a_later_entry(tenant: Tenants) -> None:
    """The entry moved with the clock, so the settle must not mistake a neighbour for it."""
    lab = tenant(policy(window("tpm", 200, "tokens")))
    lab.clock.advance(1000)
    await lab.grant("a", tokens=100)
    lab.clock.advance(-500)
    await used(lab)
    lab.clock.advance(700)
    await lab.grant("b", tokens=100)
    await lab.settle("a", {"tokens": 0})

    lab.clock.advance(MINUTE_MS - 700)

    assert await used(lab) == 100
