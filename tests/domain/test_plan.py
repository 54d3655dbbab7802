"""Which limits apply to a request, with what amounts and bounds."""

from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account, Override
from server.domain.errors import AccountNotFoundError, InvalidRequestError
from server.domain.limit_value import Source, Value, value_in, value_of
from server.domain.limits.base import Check
from server.domain.limits.slots import Queue
from server.domain.operation import Item, Operation, TenantRef
from server.domain.plan import Plan, account_or_default, cycle_anchors, make_plan, usage_plan
from server.domain.policy import Policy, Product
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from tests.policies_for_tests import (
    balance,
    flag_gate,
    guard,
    only_for,
    plan_gate,
    policy,
    quota,
    slots,
    window,
)

REF: Final = TenantRef("lab", "acme")
FREE: Final = Account(plan="free")
FILM: Final = Product("film", block={"frames": 10}, charge={"credits": 3, "tokens": 1})


def plan_for(rules: Policy, account: Account = FREE, now_ms: int = 0, **fields: object) -> Plan:
    return make_plan(rules, operation(**fields), account, now_ms)


def operation(**fields: object) -> Operation:
    return Operation(**{"ref": REF, "action": "work", **fields})  # type: ignore[arg-type]  # fields of the class


def ids(plan: Plan) -> list[str]:
    return [check.limit.id for check in plan.checks]


# which limits


def test_every_scope_is_checked() -> None:
    """Key, project and tenant limits are all in the plan, each with its own cell."""
    rules = policy(
        window("per-model", 9, scope=("model",)), window("per-project", 9, scope=("project",)), window("all", 9)
    )

    plan = plan_for(rules, scope={"project": "p", "model": "m"})

    assert [(check.limit.id, check.scope) for check in plan.checks] == [
        ("per-model", ("m",)),
        ("per-project", ("p",)),
        ("all", ()),
    ]


def test_a_limit_applies_to_its_actions_and_dimension_values_only() -> None:
    for_big = replace(window("big", 9), when={"model": frozenset({"xl", "xxl"})})
    rules = policy(only_for(window("rest", 9), "rest"), only_for(window("work", 9), "work", "rest"), for_big)

    assert ids(plan_for(rules)) == ["work"]
    assert ids(plan_for(rules, action="rest")) == ["rest", "work"]
    assert ids(plan_for(rules, scope={"model": "xl"})) == ["work", "big"]
    assert ids(plan_for(rules, scope={"model": "s"})) == ["work"]


def test_a_limit_per_dimension_needs_the_dimension() -> None:
    with pytest.raises(InvalidRequestError) as error:
        plan_for(policy(window("rpm", 9, scope=("project",))))

    assert error.value.violations[0].field == "scope[project]"
    assert "rpm" in error.value.violations[0].description


# amounts


def test_each_kind_counts_what_the_request_names_or_its_own_default() -> None:
    rules = policy(
        window("rpm", 9), window("tpm", 9, "tokens"), slots("jobs", 9), slots("sized", 9, "frames"), balance("credits")
    )

    by_default = plan_for(rules)
    named = plan_for(rules, amounts={"requests": 2, "tokens": 3, "frames": 4, "credits": 5})

    assert [check.amount for check in by_default.checks] == [1, 0, 1, 1, 0]
    assert [check.amount for check in named.checks] == [2, 3, 1, 4, 5]


def test_what_is_reported_later_settles_and_what_is_not_does_not() -> None:
    rules = policy(window("rpm", 9), window("tpm", 9, "tokens"), slots("jobs", 9, "tokens"), balance("credits"))

    plan = plan_for(rules, amounts={"tokens": 3})

    assert [check.settles for check in plan.checks] == [False, True, False, False]
    assert plan.meters == {"tokens": 3}


def test_room_must_fit_and_is_not_taken() -> None:
    (check,) = plan_for(policy(balance("credits", room=40)), amounts={"credits": 5}).checks

    assert (check.amount, check.take) == (40, 0)


def test_items_add_their_measure_and_their_price() -> None:
    rules = policy(window("frames", 99, "frames"), balance("credits"), products=[FILM])
    items = (
        Item("a", "film", {"frames": 11}),
        Item("b", "film", {"frames": 10}),
        Item("c", "film", {"frames": 99}, reused=True),
    )

    plan = plan_for(rules, items=items, amounts={"credits": 1})

    assert plan.amounts == {"credits": 1 + 4 + 3, "frames": 120, "tokens": 3}
    assert plan.note.item_prices == {"a": {"credits": 4, "tokens": 2}, "b": {"credits": 3, "tokens": 1}, "c": {}}


def test_a_hold_keeps_prices_and_named_amounts_but_not_what_items_merely_measure() -> None:
    items = (Item("a", "film", {"frames": 10}),)

    measured = plan_for(policy(balance("credits"), products=[FILM]), items=items)
    counted = plan_for(policy(window("frames", 99, "frames"), products=[FILM]), items=items)
    named = plan_for(policy(products=[FILM]), items=items, amounts={"frames": 5, "requests": 3})

    assert measured.meters == {"credits": 3, "tokens": 1}
    assert counted.meters == {"frames": 10, "credits": 3, "tokens": 1}
    assert named.meters == {"frames": 15, "credits": 3, "tokens": 1}


@pytest.mark.parametrize(
    ("limits", "amounts", "leaves"),
    [
        ((window("rpm", 9),), {}, False),
        ((window("rpm", 9, returns=True),), {}, False),
        ((window("tpm", 9, "tokens"),), {"tokens": 0}, True),
        ((slots("jobs", 9),), {}, True),
        ((slots("jobs", 9, room=1),), {}, False),
        ((balance("credits"),), {}, False),
        ((), {"frames": 0}, True),
        ((), {}, False),
    ],
)
def test_a_grant_leaves_a_hold_when_there_is_something_to_settle_or_give_back(
    limits: tuple[object, ...],
    amounts: dict[str, int],
    leaves: bool,  # noqa: FBT001  # a column of the table
) -> None:
    plan = plan_for(policy(*limits), amounts=amounts)  # type: ignore[arg-type]  # limits

    assert plan.leaves_hold is leaves


# guards and gates


def test_a_guard_passes_exactly_its_bound() -> None:
    rules = policy(guard("size", 10, "tokens"))

    assert not plan_for(rules, amounts={"tokens": 10}).guarded
    assert plan_for(rules, amounts={"tokens": 11}).guarded
    assert not plan_for(rules).guarded


def test_a_gate_on_a_flag_passes_as_expected_and_counts_a_missing_flag_as_false() -> None:
    must, must_not = policy(flag_gate("paid", expect=True)), policy(flag_gate("paid", expect=False))
    paid = Account(plan="free", flags={"paid": True})

    assert (plan_for(must).gated, plan_for(must, paid).gated) == (True, False)
    assert (plan_for(must_not).gated, plan_for(must_not, paid).gated) == (False, True)


def test_a_gate_on_a_dimension_passes_what_the_plan_allows() -> None:
    rules = policy(plan_gate("model", {"free": ("s",), "pro": ("s", "xl")}))

    assert not plan_for(rules).gated
    assert not plan_for(rules, scope={"model": "s"}).gated
    assert plan_for(rules, scope={"model": "xl"}).gated
    assert not plan_for(rules, Account(plan="pro"), scope={"model": "xl"}).gated


def test_a_shadow_gate_refuses_nothing() -> None:
    assert not plan_for(policy(flag_gate("paid", expect=True, shadow=True))).gated


# values


def test_a_value_comes_from_the_policy_the_plan_or_an_override() -> None:
    constant, by_plan = window("a", 5), window("b", {"free": 1, "pro": None})
    account = Account(plan="free", overrides=(Override("a", 7, 100),))

    assert value_of(constant, FREE, 0) == Value(5, Source.POLICY)
    assert value_of(by_plan, FREE, 0) == Value(1, Source.PLAN)
    assert value_of(by_plan, Account(plan="pro"), 0) == Value(None, Source.PLAN)
    assert value_of(constant, account, 99) == Value(7, Source.OVERRIDE, until_ms=100)
    assert value_of(constant, account, 100) == Value(5, Source.POLICY, from_ms=100)
    assert value_of(by_plan, account, 99) == Value(1, Source.PLAN)


def test_an_override_without_an_end_is_for_ever() -> None:
    account = Account(plan="free", overrides=(Override("a", 0),))

    assert value_of(window("a", 5), account, 10**15) == Value(0, Source.OVERRIDE, until_ms=FOREVER_MS)


def test_an_override_may_limit_what_the_plan_leaves_unlimited() -> None:
    rules = policy(window("rpm", None))

    assert plan_for(rules).checks == ()
    assert [c.cap for c in plan_for(rules, Account(plan="free", overrides=(Override("rpm", 3),))).checks] == [3]


def test_a_plan_is_valid_until_the_first_override_of_its_limits_ends() -> None:
    rules = policy(window("a", 1), window("b", 1), only_for(window("c", 1), "rest"))
    account = Account(
        plan="free", overrides=(Override("a", 2, 100), Override("b", 2, 50), Override("c", 2, 10), Override("d", 2, 5))
    )

    assert (plan_for(rules, account, 0).valid_from_ms, plan_for(rules, account, 0).valid_until_ms) == (0, 50)
    assert (plan_for(rules, account, 60).valid_from_ms, plan_for(rules, account, 60).valid_until_ms) == (50, 100)
    assert plan_for(rules, account, 100).valid_until_ms == FOREVER_MS


def test_a_balance_is_bounded_by_its_funds_alone() -> None:
    (check,) = plan_for(policy(balance("credits"))).checks

    assert check.cap == MAX_AMOUNT


# accounts


def test_missing_entitlement_refused() -> None:
    """No account and no default plan, or a plan that the policy lacks: an error of its own, never a grant."""
    rules = policy()

    assert account_or_default(rules, REF, None, 0) == Account(plan="free")
    with pytest.raises(AccountNotFoundError, match="acme"):
        account_or_default(replace(rules, default_plan=None), REF, None, 0)
    with pytest.raises(AccountNotFoundError, match="gold"):
        account_or_default(rules, REF, Account(plan="gold"), 0)


def test_a_usage_plan_looks_at_every_limit_with_state_whose_dimensions_are_named() -> None:
    rules = policy(
        guard("size", 1, "tokens"),
        flag_gate("paid", expect=True),
        only_for(window("rest", 1), "rest"),
        window("per-project", 1, scope=("project",)),
        window("per-model", 1, scope=("model",)),
        balance("credits", room=3),
    )

    plan = usage_plan(rules, operation(action="", scope={"project": "p"}), FREE, 0)

    assert ids(plan) == ["rest", "per-project", "credits"]
    assert all(check[3:5] == (0, 0) for check in plan.checks)
    assert not plan.guarded
    assert not plan.gated


def test_places_are_those_of_the_policys_list() -> None:
    """A hold remembers its figures by them."""
    plan = plan_for(policy(guard("size", 1, "tokens"), window("a", 1), flag_gate("x", expect=False), window("b", 1)))

    assert [check.place for check in plan.checks] == [1, 3]
    assert all(isinstance(check, Check) for check in plan.checks)


# cycles


NOON_MS: Final = 1_773_144_000_000  # 10 March 2026
LAST_DAY_MS: Final = 1_769_853_600_000  # 31 January 2026, 10:00


def test_a_plan_holds_while_its_cycle_lasts() -> None:
    """The narrowest of all cycles and overrides; the boundary belongs to the next one."""
    rules = policy(quota("anchored", 5), quota("calendar", 5, anchored=False))
    account = Account(plan="free", created_at_ms=LAST_DAY_MS)

    plan = plan_for(rules, account, NOON_MS, amounts={"frames": 1})

    anchored, calendar = (check.terms for check in plan.checks)
    assert anchored is not None
    assert calendar is not None
    assert (plan.valid_from_ms, plan.valid_until_ms) == (calendar.start_ms, anchored.end_ms)
    after = plan_for(rules, account, anchored.end_ms, amounts={"frames": 1})
    assert after.checks[0].terms is not None
    assert after.checks[0].terms.start_ms == anchored.end_ms
    assert usage_plan(rules, operation(), account, NOON_MS).valid_until_ms == anchored.end_ms


def test_what_a_quota_allows_beyond_its_limit_comes_from_the_plan() -> None:
    rules = policy(quota("q", 5, overage=None, price=200, grace_ms=7))
    terms = plan_for(rules, FREE, NOON_MS).checks[0].terms
    assert terms is not None
    assert (terms.overage, terms.price, terms.grace_ms) == (MAX_AMOUNT, 200, 7)


def test_an_unlimited_quota_is_looked_at_and_counts() -> None:
    (check,) = plan_for(policy(quota("q", None)), FREE, NOON_MS, amounts={"frames": 3}).checks
    assert (check.cap, check.take, check.settles) == (MAX_AMOUNT, 3, True)


def test_of_an_account_a_shape_knows_the_day_on_which_its_cycles_begin() -> None:
    """Two accounts of one day share it; a policy without anchored quotas asks for no day."""
    rules = policy(quota("q", 5), quota("other", 5), quota("calendar", 5, anchored=False))
    assert cycle_anchors(rules, Account(plan="free", created_at_ms=LAST_DAY_MS)) == (31,)
    assert cycle_anchors(rules, FREE) == (1,)
    assert cycle_anchors(policy(quota("calendar", 5, anchored=False)), FREE) == ()


def test_an_allowance_is_closed_when_the_store_lost_its_state() -> None:
    assert plan_for(policy(quota("q", 5))).closed
    assert not plan_for(policy(window("rpm", 5))).closed


def test_an_action_may_leave_dimensions_out_where_the_limit_says_so() -> None:
    limit = replace(window("per-project", 9, scope=("project",)), optional_for=frozenset({"work"}))
    assert ids(plan_for(policy(limit), scope={})) == []
    assert ids(plan_for(policy(limit), scope={"project": "p"})) == ["per-project"]
    with pytest.raises(InvalidRequestError):
        plan_for(policy(limit), action="rest", scope={})


def test_pools_that_share_places_have_the_smallest_limit_of_theirs() -> None:
    """For requests of each of them, in its figures, and for those who wait; on other plans each has its own."""
    queue = Queue(times=2, ticket_ms=1, joined={"pro": ("a~s", "b~s")})
    rules = policy(slots("a", {"free": 9, "pro": 5}, queue=queue), slots("b", {"free": 8, "pro": None}, queue=queue))
    pro = Account(plan="pro", overrides=(Override("b", 3, 100),))

    for plan in (plan_for(rules, pro, now_ms=99), usage_plan(rules, Operation(REF, ""), pro, 99)):
        assert [(check.cap, check.queue and check.queue.depth) for check in plan.checks] == [(3, 6), (3, 6)]
        assert plan.shape.valid_until_ms == 100
    assert [check.cap for check in plan_for(rules, pro, now_ms=100).checks] == [5, 5]
    assert [check.cap for check in plan_for(rules, FREE).checks] == [9, 8]
    assert value_in(rules, rules.limits[0], pro, 99) == Value(3, Source.OVERRIDE, until_ms=100)
