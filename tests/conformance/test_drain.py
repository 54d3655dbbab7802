"""Pools whose jobs have a usual length: what a full one guesses, on every engine."""

from collections.abc import Callable

from server.domain.limits.slots import JOBS_AVERAGED, JOBS_ENOUGH, STARTS_KEPT
from server.domain.policy import Policy
from tests.policies_for_tests import TERMS, policy, slots
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]

TYPICAL_MS = 10_000


async def wait_ms(lab: Tenant) -> int:
    """What a refused request is told."""
    return (await lab.refusal("refused"))["jobs"].wait_ms


async def run(lab: Tenant, jobs: int, length_ms: int) -> None:
    """Runs jobs one after the other."""
    for number in range(jobs):
        await lab.grant(f"job-{lab.clock()}-{number}")
        lab.clock.advance(length_ms)
        await lab.release(f"job-{lab.clock() - length_ms}-{number}")


async def test_the_guess_is_when_the_oldest_job_will_have_taken_the_usual_time(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 2, typical_ms=TYPICAL_MS)))
    await lab.grant("a")
    lab.clock.advance(4000)
    await lab.grant("b")
    lab.clock.advance(1000)

    assert await wait_ms(lab) == 5000
    await lab.release("a")
    await lab.grant("c")
    assert await wait_ms(lab) == 9000


async def test_a_job_that_takes_longer_than_usual_may_end_at_any_moment(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 1, typical_ms=TYPICAL_MS)))
    await lab.grant("a")
    lab.clock.advance(TYPICAL_MS + 1)

    assert await wait_ms(lab) == 1


async def test_measured_jobs_replace_the_usual_length_once_there_were_enough(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 1, typical_ms=TYPICAL_MS, measured=True)))
    await run(lab, JOBS_ENOUGH - 1, 2000)
    await lab.grant("last")
    assert await wait_ms(lab) == TYPICAL_MS
    lab.clock.advance(2000)
    await lab.release("last")

    await lab.grant("next")

    assert await wait_ms(lab) == 2000


async def test_the_measured_length_follows_when_jobs_become_longer(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 1, typical_ms=TYPICAL_MS, measured=True)))
    await run(lab, JOBS_ENOUGH, 2000)
    await run(lab, 4 * JOBS_AVERAGED, 6000)
    await lab.grant("next")

    assert 5000 < await wait_ms(lab) <= 6000


async def test_a_worker_that_died_is_no_measure(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 1, typical_ms=TYPICAL_MS, measured=True)))
    await run(lab, JOBS_ENOUGH, 2000)
    await lab.grant("dead")
    lab.clock.advance(TERMS.lease_ms)

    await lab.grant("next")

    assert await wait_ms(lab) == 2000


async def test_a_request_without_places_is_no_job(tenant: Tenants) -> None:
    """Its end is not taken for that of a job that began at the same instant, and is not measured."""
    lab = tenant(policy(slots("jobs", 2, meter="tokens", typical_ms=TYPICAL_MS, measured=True)))
    await lab.grant("job", tokens=2)
    for number in range(JOBS_ENOUGH):
        await lab.grant(f"none-{number}", tokens=0)
    lab.clock.advance(1000)
    for number in range(JOBS_ENOUGH):
        await lab.release(f"none-{number}")

    assert (await lab.refusal("refused", tokens=1))["jobs"].wait_ms == TYPICAL_MS - 1000


async def test_more_jobs_than_are_remembered_come_and_go(tenant: Tenants) -> None:
    many = STARTS_KEPT + 6
    lab = tenant(policy(slots("jobs", many, typical_ms=TYPICAL_MS)))
    for number in range(many):
        await lab.grant(f"job-{number}")
    lab.clock.advance(3000)

    assert await wait_ms(lab) == TYPICAL_MS - 3000
    for number in range(STARTS_KEPT):
        await lab.release(f"job-{number}")
    assert (await lab.figures())["jobs"].used == 6
    for number in range(STARTS_KEPT, many):
        await lab.release(f"job-{number}")
    assert (await lab.figures())["jobs"].used == 0


async def test_a_usual_length_may_come_and_go_with_the_policy_while_jobs_run(tenant: Tenants) -> None:
    plain, usual = policy(slots("jobs", 2)), policy(slots("jobs", 2, typical_ms=TYPICAL_MS, measured=True))
    lab = tenant(plain)
    await lab.grant("a")
    lab.policy = usual
    await lab.grant("b")
    assert await wait_ms(lab) == TYPICAL_MS
    lab.policy = plain
    assert await wait_ms(lab) == -1

    await lab.release("a")
    await lab.grant("c")
    await lab.release("b")
    await lab.release("c")

    assert (await lab.figures())["jobs"].used == 0
