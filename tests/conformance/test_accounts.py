"""Account records, versions, grants and their ids, on every engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account, Override
from server.domain.errors import IdReusedError, InvalidRequestError
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import AccountWrite, Conflict, Written
from tests.policies_for_tests import balance, policy
from tests.tenants import START_MS, Tenant

Tenants = Callable[[Policy], Tenant]

PURSE: Final = policy(balance("credits"), balance("budget", "frames"))
CREDITS: Final = PURSE.limits[0].cell
BUDGET: Final = PURSE.limits[1].cell


async def balances(lab: Tenant) -> list[int]:
    return [look.cap for look in (await lab.figures()).values()]


async def test_an_account_comes_back_as_it_was_written(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    account = Account(
        plan="pro",
        created_at_ms=START_MS,
        flags={"suspended": False, "allowlisted": True},
        overrides=(Override("credits", 5, START_MS + 1), Override("forever", MAX_AMOUNT)),
        lifetime_purchased_usd_micros=MAX_AMOUNT,
        version=1,
    )

    assert await lab.write(AccountWrite(account=account)) == Written(account, applied=True)

    found = await lab.find("")
    assert (found.account, found.hold) == (account, None)


async def test_an_unknown_tenant_has_no_account(tenant: Tenants) -> None:
    found = await tenant(PURSE).find("nothing")

    assert (found.account, found.hold) == (None, None)


async def test_a_write_on_another_version_changes_nothing(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    first = Account(plan="free", version=1)
    second = Account(plan="pro", version=2)
    assert await lab.write(AccountWrite(account=replace(first, version=8), expected_version=7)) == Conflict(None)
    await lab.write(AccountWrite(account=first))
    await lab.write(AccountWrite(account=second, expected_version=1))

    for expected in (0, 1, 3):
        late = AccountWrite(account=replace(first, version=9), expected_version=expected, grants={CREDITS: 5})
        assert await lab.write(late) == Conflict(second)

    lab.account = second
    assert await balances(lab) == [0, 0]


async def test_grants_alone_leave_the_record_and_its_version(tenant: Tenants) -> None:
    """Plans in flight stay valid: the version covers the record, never the balances."""
    lab = tenant(PURSE)
    await lab.open(credits=1)
    plan = lab.plan("h", credits=10)

    assert await lab.write(AccountWrite(grants={CREDITS: 10, BUDGET: 20})) == Written(
        lab.account, applied=True, changed={CREDITS: 10, BUDGET: 20}
    )

    assert await balances(lab) == [11, 20]
    await lab.reserve(plan)
    assert (await lab.hold("h")).meters["credits"].reserved == 10


async def test_a_tenant_without_a_record_may_be_granted_units(tenant: Tenants) -> None:
    lab = tenant(PURSE)

    assert await lab.write(AccountWrite(grants={CREDITS: 10})) == Written(None, applied=True, changed={CREDITS: 10})

    await lab.grant("h", credits=10)


async def test_a_write_with_an_id_is_made_once(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    write = AccountWrite(grants={CREDITS: 10}, write_id="purchase 1", fingerprint=b"ten")

    answers = [await lab.write(write) for _ in range(3)]
    await lab.write(replace(write, write_id="purchase 2"))

    assert [(answer.applied, answer.changed) for answer in answers if isinstance(answer, Written)] == [
        (True, {CREDITS: 10}),
        (False, {CREDITS: 10}),
        (False, {CREDITS: 10}),
    ]
    assert await balances(lab) == [20, 0]


async def test_a_repeated_write_is_recognised_after_the_version_moved_on(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    first = AccountWrite(account=Account("free", version=1), grants={CREDITS: 10}, write_id="p", fingerprint=b"x")
    await lab.write(first)
    lab.account = Account("free", version=1)
    await lab.open(plan="pro")

    assert await lab.write(first) == Written(lab.account, applied=False, changed={CREDITS: 10})
    assert await balances(lab) == [10, 0]


async def test_an_id_with_other_content_is_refused(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.write(AccountWrite(grants={CREDITS: 10}, write_id="p", fingerprint=b"ten"))

    with pytest.raises(IdReusedError) as error:
        await lab.write(AccountWrite(grants={CREDITS: 11}, write_id="p", fingerprint=b"eleven"))

    assert error.value.metadata == {"differs": "content"}
    assert await balances(lab) == [10, 0]


async def test_an_id_is_not_used_up_by_a_conflict(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    write = AccountWrite(account=Account("free", version=2), expected_version=1, write_id="p", fingerprint=b"x")
    assert isinstance(await lab.write(write), Conflict)
    await lab.open()

    assert await lab.write(write) == Written(write.account, applied=True)


async def test_a_balance_counts_up_to_the_largest_exact_number(tenant: Tenants) -> None:
    lab = tenant(PURSE)
    await lab.write(AccountWrite(grants={CREDITS: MAX_AMOUNT - 1}))
    before = await balances(lab)

    with pytest.raises(InvalidRequestError):
        await lab.write(AccountWrite(grants={BUDGET: 5, CREDITS: 2}, write_id="p", fingerprint=b"x"))

    assert await balances(lab) == before
    await lab.write(AccountWrite(grants={CREDITS: 1}, write_id="p", fingerprint=b"y"))
    assert await balances(lab) == [MAX_AMOUNT, 0]
