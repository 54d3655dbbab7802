"""Answers: precedence, hints, messages, and what a system's own clients are told."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account
from server.domain.decision import Decision, Lease, grant, refuse
from server.domain.limits import Limit
from server.domain.limits.base import Look
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan
from server.domain.policy import Envelope, Policy, RefusalRule
from server.domain.templates import Template
from tests.policies_for_tests import balance, flag_gate, guard, plan_gate, policy, slots, window

FITS: Final = Look(10, 0, 0, 0, 0)
RPM: Final = window("rpm", 10)
TPM: Final = window("tpm", 10, "tokens")
JOBS: Final = slots("jobs", 10)
CREDITS: Final = balance("credits")


def wait(ms: int) -> Look:
    return Look(cap=10, used=10, held=0, reset_ms=ms, wait_ms=ms)


def plan_for(rules: Policy, **amounts: int) -> Plan:
    operation = Operation(ref=TenantRef("lab", "acme"), action="work", scope={"model": "xl"}, amounts=amounts)
    return make_plan(rules, operation, Account(plan="free"), 0)


def decide(
    limits: Sequence[Limit], looks: Sequence[Look], precedence: tuple[str, ...] = (), **amounts: int
) -> Decision:
    return refuse(plan_for(policy(*limits, precedence=precedence), **amounts), looks)


def code_and_hint(decision: Decision) -> tuple[str, int | None]:
    assert decision.refusal is not None
    return decision.refusal.code, decision.refusal.retry_after_ms


# which blocker is binding


def test_guards_come_first_and_alone() -> None:
    """When one fails, only failed guards are reported, whatever else is in the plan."""
    rules = policy(guard("size", 5, "tokens"), guard("length", 5, "frames"), flag_gate("paid", expect=True), RPM)

    decision = refuse(plan_for(rules, tokens=9, frames=5), ())

    assert [result.limit.id for result in decision.results] == ["size"]
    assert (decision.results[0].look.cap, decision.results[0].look.used) == (5, 9)
    assert code_and_hint(decision) == ("size", None)


def test_the_default_precedence_is_by_kind() -> None:
    """Gate, balance, window, slots; and all blockers are named, however little they have to say."""
    limits = [JOBS, RPM, CREDITS]
    looks = [wait(-1), wait(500), wait(-1)]

    assert code_and_hint(decide([flag_gate("paid", expect=True), *limits], looks))[0] == "paid"
    assert code_and_hint(decide(limits, looks))[0] == "credits"
    assert code_and_hint(decide(limits[:2], looks[:2]))[0] == "rpm"
    decision = decide([flag_gate("paid", expect=True), *limits], looks)
    assert [result.limit.id for result in decision.results if result.blocking] == ["paid", "jobs", "rpm", "credits"]


def test_quota_and_abuse_differ() -> None:
    """Out of funds and suspended are distinct codes, and the suspension wins."""
    assert code_and_hint(decide([CREDITS, flag_gate("suspended", expect=True)], [wait(-1)]))[0] == "suspended"


def test_a_policy_may_state_its_own_precedence() -> None:
    order = ("jobs", "rpm", "credits")

    assert code_and_hint(decide([CREDITS, RPM, JOBS], [wait(-1), wait(5), wait(-1)], order))[0] == "jobs"


@pytest.mark.parametrize(
    ("waits", "binding"), [((500, 700), "tpm"), ((700, 500), "rpm"), ((500, 500), "rpm"), ((500, -1), "tpm")]
)
def test_among_equals_the_longest_wait_binds_then_the_policys_order(waits: tuple[int, int], binding: str) -> None:
    """A limit that cannot say how long counts as the longest."""
    decision = decide([RPM, TPM], [wait(ms) for ms in waits], tokens=1)

    assert code_and_hint(decision)[0] == binding


# hints


def test_hint_is_longest_blocker() -> None:
    assert code_and_hint(decide([RPM, TPM], [wait(500), wait(700)], tokens=1)) == ("tpm", 700)


def test_no_hint_when_useless() -> None:
    """As soon as one blocker is not retryable, waiting does not help, however short the others' waits."""
    decision = decide([RPM, CREDITS], [wait(500), wait(-1)])

    assert code_and_hint(decision) == ("credits", None)
    assert decision.refusal is not None
    assert not decision.refusal.retryable


def test_a_request_larger_than_the_limit_is_never_retryable() -> None:
    decision = decide([RPM, TPM], [wait(500), Look(10, 0, 0, 0, -1)], tokens=11)

    assert code_and_hint(decision) == ("tpm", None)
    assert decision.refusal is not None
    assert not decision.refusal.retryable


def test_a_request_larger_than_a_pool_is_never_retryable() -> None:
    sized = slots("sized", 10, "frames", typical_ms=9000)

    decision = decide([sized], [Look(10, 0, 0, -1, -1)], frames=11)

    assert decision.refusal is not None
    assert (decision.refusal.retryable, decision.refusal.retry_after_ms) == (False, None)


def test_a_pool_with_a_typical_length_estimates() -> None:
    decision = decide([slots("jobs", 1, typical_ms=9000)], [wait(9000)])

    assert decision.refusal is not None
    assert (decision.refusal.retry_after_ms, decision.refusal.estimated) == (9000, True)
    assert decision.results[0].look.wait_ms == 9000


def test_a_pool_without_a_typical_length_is_retryable_without_a_hint() -> None:
    decision = decide([JOBS, RPM], [wait(-1), wait(500)])

    assert decision.refusal is not None
    assert (decision.refusal.retryable, decision.refusal.retry_after_ms) == (True, None)
    assert not decision.refusal.estimated


def test_a_hint_of_a_window_alone_is_a_promise() -> None:
    decision = decide([RPM, slots("jobs", 1, typical_ms=9000)], [wait(500), FITS])

    assert decision.refusal is not None
    assert not decision.refusal.estimated


# shadow


def test_shadow_limits_are_reported_and_bind_nothing() -> None:
    shadow = window("shadow", 1, shadow=True)

    refused = decide([shadow, RPM], [wait(900), wait(500)])
    granted = grant(plan_for(policy(shadow, RPM)), [wait(900), FITS], Lease(hold_id="h"))

    assert code_and_hint(refused) == ("rpm", 500)
    assert [(result.limit.id, result.blocking, result.look.fits) for result in granted.results] == [
        ("shadow", False, False),
        ("rpm", False, True),
    ]


def test_a_shadow_guard_refuses_nobody() -> None:
    rules = policy(replace(guard("size", 5, "tokens"), shadow=True), RPM)
    plan = plan_for(rules, tokens=9)

    granted = grant(plan, [FITS], None)

    assert not plan.guarded
    assert [(result.limit.id, result.look.fits, result.blocking) for result in granted.results] == [
        ("size", False, False),
        ("rpm", True, False),
    ]


# words


def test_messages_and_details_are_filled_in_from_the_binding_blocker() -> None:
    decision = decide([RPM, TPM], [FITS, Look(10, 8, 0, 0, 1500)], tokens=5)

    assert decision.refusal is not None
    assert decision.refusal.message == "the tpm limit: 8 of 10"
    assert decision.refusal.details == {"needed": 5, "retry_after": 2}
    assert decision.refusal.limit_id == "tpm"


def test_a_field_without_a_value_is_left_out() -> None:
    decision = decide([CREDITS], [wait(-1)], credits=5)

    assert decision.refusal is not None
    assert decision.refusal.details == {"needed": 5}


def test_a_gate_on_a_dimension_tells_what_was_asked_and_what_is_allowed() -> None:
    gate = plan_gate("model", {"free": ("s", "m"), "pro": ("xl",)})
    told = {
        "asked": Template.parse("{requested}"),
        "best": Template.parse("{allowed}"),
        "plan": Template.parse("{plan}"),
    }
    rules = policy(gate)
    rule = RefusalRule("model", 403, retryable=False, message=Template.parse("{model} is not in {plan}"), fields=told)
    rules = replace(rules, refusals={"model": rule})

    decision = refuse(plan_for(rules), ())

    assert decision.refusal is not None
    assert decision.refusal.message == "xl is not in free"
    assert decision.refusal.details == {"asked": "xl", "best": "m", "plan": "free"}


def test_what_is_left_is_never_negative() -> None:
    """A lowered limit leaves more used than allowed."""
    decision = decide([RPM], [Look(10, 14, 0, 5, 5)])

    assert decision.results[0].remaining == 0


# the system's own envelope


ENVELOPE: Final = Envelope(
    body={
        "error": {
            "type": Template.parse("{type}"),
            "code": Template.parse("{code}"),
            "message": Template.parse("{message}"),
            "retry_after": Template.parse("{retry_after:int}"),
            "+": None,
        },
        "plan": Template.parse("{plan}"),
    },
    headers={
        429: {"Retry-After": Template.parse("{retry_after:int}"), "X-Left": Template.parse("{rate_remaining}")},
        200: {"X-Left": Template.parse("{rate_remaining}"), "X-Reset": Template.parse("{rate_reset}")},
    },
    types={429: "rate_limit_error"},
)


def test_a_refusal_fills_the_body_and_headers_of_its_status() -> None:
    rules = policy(RPM, TPM, envelope=ENVELOPE)

    decision = refuse(plan_for(rules, tokens=5), [Look(10, 2, 0, 900, 0), Look(10, 8, 0, 0, 1500)])

    assert decision.http is not None
    assert decision.http.status == 429
    assert decision.http.headers == {"Retry-After": "2", "X-Left": "2"}
    assert decision.http.body == {
        "error": {
            "type": "rate_limit_error",
            "code": "tpm",
            "message": "the tpm limit: 8 of 10",
            "retry_after": 2,
            "needed": 5,
        },
        "plan": "free",
    }


def test_what_has_no_value_is_left_out_of_body_and_headers() -> None:
    rules = policy(CREDITS, envelope=ENVELOPE)

    decision = refuse(plan_for(rules, credits=5), [wait(-1)])

    assert decision.http is not None
    assert decision.http.headers == {}
    assert decision.http.body == {
        "error": {"code": "credits", "message": "the credits balance: 10 of 10", "needed": 5},
        "plan": "free",
    }


def test_a_grant_has_headers_and_no_body() -> None:
    rules = policy(RPM, TPM, envelope=ENVELOPE)

    decision = grant(plan_for(rules, tokens=5), [Look(10, 9, 0, 900, 0), Look(10, 5, 0, 60_000, 0)], None)

    assert decision.http is not None
    assert (decision.http.status, decision.http.body) == (0, None)
    assert decision.http.headers == {"X-Left": "1", "X-Reset": "1"}


def test_without_windows_a_grant_has_nothing_to_say() -> None:
    assert grant(plan_for(policy(CREDITS, envelope=ENVELOPE)), [FITS], None).http is None


@pytest.mark.parametrize(
    ("rpm", "tpm", "left"),
    [
        (Look(10, 9, 0, 900, 0), Look(10, 5, 0, 900, 0), "1"),
        (Look(10, 5, 0, 100, 0), Look(10, 5, 0, 60_000, 0), "5"),
    ],
)
def test_the_tightest_window_is_told(rpm: Look, tpm: Look, left: str) -> None:
    decision = grant(plan_for(policy(RPM, TPM, envelope=ENVELOPE), tokens=1), [rpm, tpm], None)

    assert decision.http is not None
    assert decision.http.headers["X-Left"] == left


def test_a_shadow_window_is_not_told() -> None:
    rules = policy(window("shadow", 1, shadow=True), RPM, envelope=ENVELOPE)

    decision = grant(plan_for(rules), [Look(1, 1, 0, 900, 900), Look(10, 3, 0, 900, 0)], None)

    assert decision.http is not None
    assert decision.http.headers["X-Left"] == "7"


# grants


def test_a_grant_has_every_limit_with_its_figures() -> None:
    rules = policy(
        guard("size", 50, "tokens"), flag_gate("suspended", expect=False), RPM, window("m", 9, scope=("model",))
    )

    decision = grant(plan_for(rules, tokens=9), [FITS, FITS], Lease(hold_id="h"))

    assert [(result.limit.id, result.amount, dict(result.scope)) for result in decision.results] == [
        ("size", 9, {}),
        ("suspended", 0, {}),
        ("rpm", 1, {}),
        ("m", 1, {"model": "xl"}),
    ]
    assert (decision.granted, decision.refusal, decision.amounts) == (True, None, {"tokens": 9})


def test_a_replay_whose_figures_are_no_longer_known_has_none() -> None:
    assert list(grant(plan_for(policy(RPM)), (), Lease(hold_id="h"), replayed=True).results) == []


def test_an_answer_about_a_hold_has_that_holds_amounts() -> None:
    lease = Lease(hold_id="h", expires_in_ms=5, renew_after_ms=1)

    decision = grant(plan_for(policy(RPM), tokens=1), [FITS], None).having({"tokens": 7}, lease)

    assert (decision.amounts, decision.lease) == ({"tokens": 7}, lease)
