"""Shadow limits, on every engine: they count and tell what they would have refused, and change nothing else."""

from collections.abc import Callable
from typing import Final

from server.domain.policy import Policy
from server.engine.base import Granted, Refused
from tests.policies_for_tests import MINUTE_MS, balance, flag_gate, policy, slots, window
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]

LAB: Final = policy(
    window("rpm", 3), window("tpm", 1000, "tokens", scope=("project",)), slots("jobs", 2), balance("credits")
)


async def test_a_shadow_limit_takes_what_it_admits_and_never_blocks(tenant: Tenants) -> None:
    lab = tenant(
        policy(window("tpm", 10, "tokens", shadow=True), slots("jobs", 1, shadow=True), balance("credits", shadow=True))
    )
    await lab.open(credits=5)

    fits = await lab.grant("a", tokens=10, credits=5)
    exceeds = await lab.grant("b", tokens=10, credits=5)

    assert [look.used for look in fits.looks] == [10, 1, 5]
    assert [(look.used, look.wait_ms) for look in exceeds.looks] == [(10, MINUTE_MS), (1, -1), (5, -1)]


async def test_shadow_changes_nothing(tenant: Tenants) -> None:
    """The same requests with and without shadow limits: equal answers and equal figures of the real limits. Of the
    shadow limits themselves each answer tells whether they would have refused.
    """
    verdicts: list[list[bool]] = []
    plain = tenant(LAB)
    shadowed = tenant(policy(*LAB.limits, window("s1", 1, shadow=True), slots("s2", 1, shadow=True)))
    shadowed.ref = shadowed.ref._replace(tenant="shadowed")
    answers: list[tuple[object, ...]] = []
    for lab in (plain, shadowed):
        await lab.open(credits=100)
        for number in range(4):
            plan = lab.plan(f"h{number}", tokens=300, credits=10)
            answer = await lab.reserve(plan)
            assert isinstance(answer, Granted | Refused)
            answers.append((type(answer), answer.looks[:4]))
            if lab is shadowed:
                verdicts.append([look.fits for look in answer.looks[4:]])
        await lab.settle("h0", {"tokens": 1})
        await lab.release("h1")
        answers.append((Tenant, tuple((await lab.figures()).values())[:4]))

    assert answers[:5] == answers[5:]
    assert verdicts == [[True, True]] + [[False, False]] * 3


async def test_a_shadow_hold_settles_and_releases_its_own_cells(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 10, "tokens", shadow=True), slots("jobs", 1, shadow=True)))
    await lab.grant("a", tokens=10)
    await lab.grant("b", tokens=10)

    await lab.settle("b", {"tokens": 10})
    await lab.settle("a", {"tokens": 4})

    figures = await lab.figures()
    assert (figures["tpm"].used, figures["jobs"].used) == (4, 0)


async def test_a_shadow_gate_lets_pass(tenant: Tenants) -> None:
    lab = tenant(policy(flag_gate("suspended", expect=True, shadow=True), *LAB.limits))

    await lab.grant("h")
