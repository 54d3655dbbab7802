"""A plan of what has happened already takes all of it, also where it no longer fits, on every engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from server.domain.limits.base import Posture
from server.domain.plan import forced
from server.domain.policy import Policy
from server.engine.base import Granted, Replayed
from tests.policies_for_tests import policy, quota, slots, window
from tests.tenants import Tenant

OPEN: Final = replace(quota("monthly", 100), posture=Posture.OPEN)
FULL: Final = policy(window("rpm", 2), window("tpm", 50, "tokens"), slots("jobs", 1), OPEN)


async def used(lab: Tenant) -> dict[str, int]:
    return {name: look.used for name, look in (await lab.figures()).items()}


async def test_it_takes_from_limits_that_are_full(tenant: Callable[[Policy], Tenant]) -> None:
    lab = tenant(FULL)
    await lab.grant("first", tokens=50, frames=100)
    await lab.refusal("second", tokens=30, frames=7)

    answer = await lab.reserve(forced(lab.plan("second", tokens=30, frames=7)))

    assert isinstance(answer, Granted)
    assert await used(lab) == {"rpm": 2, "tpm": 80, "jobs": 2, "monthly": 107}


async def test_it_is_the_operation_that_its_id_names(tenant: Callable[[Policy], Tenant]) -> None:
    """Repeated it takes nothing more, and a repeat of the request finds it."""
    lab = tenant(FULL)
    plan = lab.plan("h", tokens=60, frames=7)
    await lab.reserve(forced(plan))

    for again in (forced(plan), plan):
        answer = await lab.reserve(again)
        assert isinstance(answer, Replayed)
        assert answer.hold.fingerprint == plan.fingerprint
    assert await used(lab) == {"rpm": 1, "tpm": 60, "jobs": 1, "monthly": 7}


async def test_it_is_settled_as_any_other(tenant: Callable[[Policy], Tenant]) -> None:
    lab = tenant(FULL)
    await lab.reserve(forced(lab.plan("h", tokens=60, frames=7)))

    await lab.settle("h", {"tokens": 4, "frames": 1})

    assert await used(lab) == {"rpm": 1, "tpm": 4, "jobs": 0, "monthly": 1}
