"""Which limit counts where, and how many cells a tenant may have, on every engine."""

from collections.abc import Callable

import pytest

from server.domain.errors import TooManyCellsError
from server.domain.policy import Policy
from tests.conftest import MOST_CELLS
from tests.policies_for_tests import balance, policy, slots, window
from tests.tenants import Tenant

Tenants = Callable[[Policy], Tenant]


async def test_each_value_of_a_dimension_has_a_cell_of_its_own(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 1, scope=("project", "model")), slots("jobs", 1, scope=("model",))))
    await lab.grant("a", scope={"project": "x", "model": "y"})

    both = await lab.refusal("b", scope={"project": "x", "model": "y"})
    pool = await lab.refusal("b", scope={"project": "z", "model": "y"})
    await lab.grant("b", scope={"project": "x,model=y", "model": "z"})

    assert [look.fits for look in both.values()] == [False, False]
    assert [look.fits for look in pool.values()] == [True, False]


async def test_a_tenant_has_a_bounded_number_of_cells(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 5, scope=("project",)), balance("credits")))
    await lab.open(credits=10)
    for number in range(MOST_CELLS - 1):
        await lab.grant(f"h{number}", scope={"project": str(number)})
    before = await lab.figures({"project": "0"})

    with pytest.raises(TooManyCellsError) as error:
        await lab.grant("more", scope={"project": "more"}, credits=1)

    assert error.value.metadata == {"limit": str(MOST_CELLS)}
    assert await lab.figures({"project": "0"}) == before
    await lab.grant("known", scope={"project": "0"}, credits=1)
    await lab.release("h1")
    await lab.grant("more", scope={"project": "more"}, credits=1)


async def test_a_tenant_without_an_account_has_the_same_number_of_cells(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 5, scope=("project",))))
    for number in range(MOST_CELLS):
        await lab.grant(f"h{number}", scope={"project": str(number)})

    with pytest.raises(TooManyCellsError):
        await lab.grant("more", scope={"project": "more"})


async def test_looking_opens_no_cell(tenant: Tenants) -> None:
    lab = tenant(policy(slots("jobs", 5, scope=("project",)), balance("credits")))
    for number in range(2 * MOST_CELLS):
        await lab.figures({"project": str(number)})
        await lab.refusal(scope={"project": str(number)}, credits=1)
    for number in range(MOST_CELLS):
        await lab.grant(f"h{number}", scope={"project": str(number)})
