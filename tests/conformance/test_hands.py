"""What operators do by hand, on every engine: what it changes, what it leaves to open holds, the line it leaves."""

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from server.domain.act import Act, Deed
from server.domain.errors import IdReusedError
from server.domain.ledger import Cause
from server.domain.limit_value import value_of
from server.domain.limits import Balance, Limit
from server.domain.limits.balance import GrantSource
from server.domain.plan import CheckForm, bare_form, terms_of
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import AccountWrite
from server.engine.books import Outdated
from server.engine.hands import Adjusted, Adjustment, Reset, WasReset
from tests.policies_for_tests import HOUR_MS, TERMS, balance, policy, quota, window
from tests.tenants import EVERYWHERE, START_MS, WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

MINUTE_MS: Final = 60_000


def act(deed: Deed, request_id: str) -> Act:
    return Act(deed, "ops", "a mistake", "its limit", request_id)


async def reset(
    lab: Tenant, limit_id: str, reset_id: str = "r", *, every: bool = False, scope: Mapping[str, str] = EVERYWHERE
) -> WasReset | Outdated:
    asked = Reset(form(lab, limit_id, scope), lab.account.version, every)
    return await lab.engine.hands.reset(lab.ref, asked, act(Deed.RESET, reset_id), limit_id.encode(), WITHIN_S)


async def adjust(
    lab: Tenant, limit_id: str, units: int, adjustment_id: str = "a", *, sets: bool = False
) -> Adjusted | Outdated:
    asked = Adjustment(form(lab, limit_id), lab.account.version, units, sets)
    mark = f"{limit_id} {units}".encode()
    return await lab.engine.hands.adjust(lab.ref, asked, act(Deed.ADJUST, adjustment_id), mark, WITHIN_S)


def form(lab: Tenant, limit_id: str, scope: Mapping[str, str] = EVERYWHERE) -> CheckForm:
    """The limit's cell as it stands for the account."""
    limit: Limit = next(limit for limit in lab.policy.limits if limit.id == limit_id)
    value, terms = value_of(limit, lab.account, lab.clock()).value, terms_of(limit, lab.account, lab.clock())
    form = bare_form(limit, tuple(scope[name] for name in limit.scope), value, terms)
    return form._replace(marks=limit.marks(lab.account.plan)) if isinstance(limit, Balance) else form


async def told(lab: Tenant) -> list[Act]:
    """The audit trail of the tenant."""
    lines, following = await lab.engine.hands.acts(lab.ref, "", 100, WITHIN_S)
    assert not following
    assert {line.ref for line in lines} <= {lab.ref}
    return [line.act for line in lines]


async def used(lab: Tenant, limit_id: str) -> int:
    return (await lab.figures())[limit_id].used


# windows


async def test_a_reset_window_has_counted_nothing(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 3), window("tpm", 100, "tokens", scope=("project",))))
    for name in "abc":
        await lab.grant(name, tokens=10)
    await lab.refusal("d")

    assert await reset(lab, "rpm") == WasReset(applied=True, cells=1, before=3)

    assert await used(lab, "rpm") == 0
    assert await used(lab, "tpm") == 30
    for name in "def":
        await lab.grant(name, tokens=10)
    await lab.refusal("g")


async def test_a_reset_of_one_scope_leaves_the_others(tenant: Tenants) -> None:
    lab = tenant(policy(window("tpm", 100, "tokens", scope=("project",))))
    other = {**EVERYWHERE, "project": "other"}
    await lab.grant("a", tokens=10)
    await lab.grant("b", scope=other, tokens=20)

    assert await reset(lab, "tpm") == WasReset(applied=True, cells=1, before=10)

    assert (await lab.figures())["tpm"].used == 0
    assert (await lab.figures(other))["tpm"].used == 20


async def test_a_hold_from_before_the_reset_takes_nothing_from_those_after_it(tenant: Tenants) -> None:
    """It settles to less, to nothing, to more: its own entry changes, and no other's."""
    lab = tenant(policy(window("tpm", 100, "tokens")))
    for name in ("less", "none", "more"):
        await lab.grant(name, tokens=20)
        lab.clock.advance(1)
    await reset(lab, "tpm")
    await lab.grant("after", tokens=7)

    await lab.settle("less", {"tokens": 5})
    await lab.release("none")
    assert await used(lab, "tpm") == 7
    await lab.settle("more", {"tokens": 25})
    assert await used(lab, "tpm") == 12
    lab.clock.advance(MINUTE_MS)
    assert await used(lab, "tpm") == 0


async def test_a_window_that_counted_nothing_is_reset_all_the_same(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 3)))
    assert await reset(lab, "rpm") == WasReset(applied=True, cells=0, before=0)
    assert len(await told(lab)) == 1


# quotas


async def test_a_reset_quota_is_unused_and_what_is_held_stays_held(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100)))
    await lab.grant("used", frames=60)
    await lab.settle("used")
    await lab.grant("open", frames=30)
    await lab.report("open", {"frames": 10})

    assert await reset(lab, "q") == WasReset(applied=True, cells=1, before=70)

    look = (await lab.figures())["q"]
    assert (look.used, look.held) == (20, 20)
    await lab.settle("open", {"frames": 25})
    look = (await lab.figures())["q"]
    assert (look.used, look.held) == (15, 0)


async def test_a_reset_without_a_scope_is_of_every_cell(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, scope=("project",)), quota("q2", 100)))
    for project in ("p", "o"):
        await lab.grant(project, scope={**EVERYWHERE, "project": project}, frames=10)
        await lab.settle(project)

    assert await reset(lab, "q", every=True) == WasReset(applied=True, cells=2, before=20)

    for project in ("p", "o"):
        figures = await lab.figures({**EVERYWHERE, "project": project})
        assert (figures["q"].used, figures["q2"].used) == (0, 20)


async def test_a_reset_quota_tells_of_its_thresholds_again(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, thresholds=(50,))))
    for name in ("one", "two"):
        await lab.grant(name, frames=60)
        await lab.settle(name)
        await reset(lab, "q", name)
    notes = await lab.engine.notes(lab.ref, "", 10, WITHIN_S)
    assert [(note.percent, note.used) for note in notes] == [(50, 60), (50, 60)]


async def test_an_exhausted_quota_is_open_again_after_a_reset(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10, grace_ms=HOUR_MS)))
    await lab.grant("a", frames=10)
    await lab.settle("a")
    lab.clock.advance(HOUR_MS)
    await lab.refusal("b", frames=1)
    await reset(lab, "q")
    await lab.grant("b", frames=10)


async def test_a_reset_for_another_version_of_the_account_is_out_of_date(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 10)))
    await lab.grant("a", frames=5)
    await lab.settle("a")
    stale = lab.account
    await lab.open()
    current, lab.account = lab.account, stale
    answer = await reset(lab, "q")
    assert isinstance(answer, Outdated)
    assert answer.account == current
    assert await told(lab) == []


async def test_a_quota_is_adjusted_up_and_down_and_to_a_figure(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, overage=50)))
    await lab.grant("open", frames=20)

    assert await adjust(lab, "q", 130, "up") == Adjusted(applied=True, before=0, after=130)
    assert await adjust(lab, "q", -40, "down") == Adjusted(applied=True, before=130, after=90)
    assert await adjust(lab, "q", 5, "to", sets=True) == Adjusted(applied=True, before=90, after=5)
    assert await adjust(lab, "q", -50, "below") == Adjusted(applied=True, before=5, after=0)

    look = (await lab.figures())["q"]
    assert (look.used, look.held) == (20, 20)
    await lab.settle("open", {"frames": 20})
    assert await used(lab, "q") == 20


async def test_a_quota_that_nobody_used_can_be_adjusted(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100)))
    assert await adjust(lab, "q", 99, sets=True) == Adjusted(applied=True, before=0, after=99)
    await lab.refusal("a", frames=2)


async def test_an_adjustment_that_reaches_a_threshold_is_noted(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100, thresholds=(50, 75))))
    await adjust(lab, "q", 60, "a")
    await adjust(lab, "q", -20, "b")
    await adjust(lab, "q", 20, "c")
    notes = await lab.engine.notes(lab.ref, "", 10, WITHIN_S)
    assert [(note.percent, note.used) for note in notes] == [(50, 60)]


async def test_no_adjustment_passes_what_can_be_counted(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100), balance("credits")))
    await lab.open(credits=5)
    await lab.grant("open", frames=1)
    for limit_id in ("q", "credits"):
        with pytest.raises(Exception, match=r"would bring the limit above 2\^53 - 1"):
            await adjust(lab, limit_id, MAX_AMOUNT, limit_id)
    assert await told(lab) == []
    assert await used(lab, "q") == 1
    assert await adjust(lab, "q", MAX_AMOUNT - 1, "q") == Adjusted(applied=True, before=0, after=MAX_AMOUNT - 1)


# balances


async def test_a_balance_is_adjusted_and_what_is_held_stays_held(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits")))
    await lab.open(credits=100)
    await lab.grant("open", credits=30)

    assert await adjust(lab, "credits", 10, "up") == Adjusted(applied=True, before=70, after=80)
    assert await adjust(lab, "credits", -100, "down") == Adjusted(applied=True, before=80, after=0)

    await lab.refusal("more", credits=1)
    await lab.settle("open", {"credits": 25})
    await lab.grant("rest", credits=5)


async def test_a_balance_may_owe_as_far_as_its_policy_says(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits", debt=20, ledger=True)))
    await lab.open(credits=10)

    assert await adjust(lab, "credits", -100, "down") == Adjusted(applied=True, before=10, after=-20)
    assert await adjust(lab, "credits", 50, "up") == Adjusted(applied=True, before=-20, after=30)

    entries = await lab.engine.ledger(lab.ref, 0, 10, WITHIN_S)
    told = [(entry.cause, entry.reference, entry.units) for entry in entries if entry.cause is Cause.ADJUST]
    assert told == [(Cause.ADJUST, "down", -30), (Cause.ADJUST, "up", 50)]


@pytest.mark.parametrize("burn", ["123", "312"])
async def test_an_adjustment_comes_off_what_has_no_expiry_first(tenant: Tenants, burn: str) -> None:
    """Once: the next in the order of burning is what expires, although it names the first again."""
    lab = tenant(policy(balance("credits", burn=burn)))
    await lab.open(credits=50)
    limits = {limit.cell: limit for limit in lab.policy.limits if isinstance(limit, Balance)}
    cell = next(iter(limits))
    promotion = AccountWrite(
        grants={cell: 30},
        source=GrantSource.PROMOTIONAL,
        expires_at_ms=START_MS + HOUR_MS,
        balances=limits,
        write_id="p",
        fingerprint=b"p",
    )
    await lab.write(promotion)

    assert await adjust(lab, "credits", -60) == Adjusted(applied=True, before=80, after=20)

    state = (await lab.engine.audit(lab.ref, [cell], WITHIN_S)).balances[cell]
    assert [grant.left for grant in state.grants] == [20]


async def test_a_balance_that_is_adjusted_below_a_threshold_is_noted(tenant: Tenants) -> None:
    lab = tenant(policy(balance("credits", thresholds=(50,))))
    await lab.open(credits=100)
    await adjust(lab, "credits", -60)
    (note,) = await lab.engine.notes(lab.ref, "", 10, WITHIN_S)
    assert (note.mark, note.left) == (50, 40)


# the trail


async def test_an_act_is_told_once_however_often_it_is_asked_for(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 9), quota("q", 100), balance("credits")))
    await lab.open(credits=100)
    await lab.grant("h", frames=3, credits=10)
    released = Act(Deed.RELEASE, "ops", "its worker is gone", "h")
    put = Act(Deed.ACCOUNT, "ops", "", before='{"plan":"free"}', after='{"plan":"pro"}')
    account = AccountWrite(account=lab.account.on("pro"), expected_version=lab.account.version, act=put)

    for first in (True, False):
        assert await reset(lab, "rpm") == WasReset(applied=first, cells=1, before=1)
        assert await adjust(lab, "q", 5) == Adjusted(applied=first, before=0, after=5)
        assert await adjust(lab, "credits", 5, "b") == Adjusted(applied=first, before=90, after=95)
        assert (await lab.engine.release(lab.ref, "h", WITHIN_S, released)).applied is first
    await lab.write(account)

    assert await told(lab) == [
        act(Deed.RESET, "r")._replace(before="1", after="0"),
        act(Deed.ADJUST, "a")._replace(before="0", after="5"),
        act(Deed.ADJUST, "b")._replace(before="90", after="95"),
        released._replace(before="credits=10 frames=3"),
        put,
    ]


async def test_an_id_that_stood_for_something_else_is_refused(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 9), quota("q", 100)))
    await reset(lab, "rpm", "x")
    with pytest.raises(IdReusedError):
        await reset(lab, "q", "x")
    await adjust(lab, "q", 5, "y")
    with pytest.raises(IdReusedError):
        await adjust(lab, "q", 6, "y")
    assert len(await told(lab)) == 2


async def test_a_release_that_is_nobodys_act_leaves_no_line(tenant: Tenants) -> None:
    lab = tenant(policy(quota("q", 100)))
    await lab.grant("h", frames=3)
    await lab.release("h")
    assert await told(lab) == []


async def test_an_act_does_what_time_has_made_due_first(tenant: Tenants) -> None:
    """Else a lapsed hold would be counted as held, and settle what nobody delivered."""
    lab = tenant(policy(quota("q", 100)))
    await lab.grant("late", frames=30)
    await lab.report("late", {"frames": 10})
    lab.clock.advance(TERMS.lease_ms)
    assert await adjust(lab, "q", 5) == Adjusted(applied=True, before=10, after=15)
    assert await reset(lab, "q") == WasReset(applied=True, cells=1, before=15)
    await lab.settle("late", {"frames": 12})
    assert await used(lab, "q") == 2


async def test_the_trail_is_read_in_pages_of_one_tenant_and_of_all(tenant: Tenants) -> None:
    lab = tenant(policy(window("rpm", 9)))
    other = Tenant(lab.engine, lab.clock, lab.policy, lab.ref._replace(tenant="other"))
    for number in range(5):
        await reset(lab, "rpm", f"r{number}")
        await reset(other, "rpm", f"o{number}")
        lab.clock.advance(1 if number % 2 else -1)

    hands = lab.engine.hands
    mine, place = [], ""
    for _ in range(3):
        lines, place = await hands.acts(lab.ref, place, 2, WITHIN_S)
        mine += [line.act.request_id for line in lines]
    assert (mine, place) == ([f"r{number}" for number in range(5)], "")
    everyones, place = [], ""
    for _ in range(20):
        lines, place = await hands.acts(lab.ref._replace(tenant=""), place, 3, WITHIN_S)
        everyones += [line.act.request_id for line in lines]
        if not place:
            break
    assert sorted(everyones) == sorted([*mine, *(f"o{number}" for number in range(5))])
    assert await hands.acts(lab.ref._replace(policy="another", tenant=""), "", 3, WITHIN_S) == ([], "")


async def test_a_repair_stands_in_the_audit_trail_once_it_is_made(tenant: Tenants) -> None:
    """With what it changed; one that came too late, as the balance has moved since, changes and tells nothing."""
    lab = tenant(policy(balance("credits", ledger=True)))
    await lab.open(credits=50)
    cell = lab.policy.limits[0].cell
    seen = (await lab.engine.audit(lab.ref, [cell], WITHIN_S)).balances
    act = Act(Deed.REPAIR, "ops", "a spoilt cell", "credits", before="credits.granted=50", after="credits.granted=49")
    right = {cell: seen[cell].totals._replace(granted=49)}

    async def repair() -> bool:
        return await lab.engine.hands.repair(lab.ref, right, seen, act, WITHIN_S)

    assert (await repair(), await repair()) == (True, False)
    lines, _ = await lab.engine.hands.acts(lab.ref, "", 10, WITHIN_S)
    assert [(line.act, line.at_ms) for line in lines] == [(act, lab.clock())]
    assert (await lab.figures())["credits"].cap == 49
