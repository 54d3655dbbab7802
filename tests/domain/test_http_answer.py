"""The answer in HTTP: which window its headers are of, and the forms of the standards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import pytest

from server.domain.account import Account
from server.domain.decision import grant, refuse
from server.domain.limits import Limit
from server.domain.limits.base import Look
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan
from server.domain.policy import Envelope
from server.domain.templates import Template
from server.domain.units import MAX_AMOUNT
from tests.policies_for_tests import balance, flag_gate, policy, quota, slots, window

RATES: Final = {"Limit": "{rate_limit}", "Left": "{rate_remaining:int}", "Reset": "in {rate_reset} s", "Plan": "{plan}"}
OWN: Final = Envelope(
    body={"error": Template.parse("{code}")},
    headers={status: {name: Template.parse(text) for name, text in RATES.items()} for status in (200, 402, 429)},
    types={},
)
IETF: Final = Envelope(body={}, headers={}, types={}, ratelimit="ietf-10", problem="rfc9457")
MINUTE: Final = window("minute", 100)
HOUR: Final = window("hour", 1000)
NOW_MS: Final = 1_773_144_000_000


def plan_for(envelope: Envelope | None, *limits: Limit) -> Plan:
    rules = policy(*limits, envelope=envelope)
    operation = Operation(ref=TenantRef("lab", "acme"), action="work", amounts={"tokens": 1, "credits": 1, "frames": 1})
    return make_plan(rules, operation, Account(plan="free"), NOW_MS)


def granted(envelope: Envelope | None, limits: Sequence[Limit], looks: Sequence[Look]) -> Mapping[str, str] | None:
    answer = grant(plan_for(envelope, *limits), looks, None).http
    assert answer is None or (answer.status, answer.body) == (0, None)
    return answer.headers if answer else None


def look(cap: int, left: int, reset_ms: int = 5000, wait_ms: int = 0) -> Look:
    return Look(cap, cap - left, 0, reset_ms, wait_ms)


# the tightest window


@pytest.mark.parametrize(
    ("minute", "hour", "told"),
    [
        (look(100, 50), look(1000, 49), "1000"),
        (look(100, 49), look(1000, 50), "100"),
        (look(100, 49, 1000), look(1000, 49, 2000), "1000"),
        (look(100, 49, 2000), look(1000, 49, 1000), "100"),
        (look(100, -20), look(1000, 0), "100"),
    ],
    ids=["fewer left", "fewer left, the other way", "longer reset", "longer reset, the other way", "none below zero"],
)
def test_headers_of_a_grant_are_of_the_window_with_the_fewest_left(minute: Look, hour: Look, told: str) -> None:
    headers = granted(OWN, [MINUTE, HOUR, window("watched", 1, shadow=True)], [minute, hour, look(1, 0)])
    assert headers is not None
    assert headers["Limit"] == told
    assert headers["Left"] == str(max(min(minute.cap - minute.used, hour.cap - hour.used), 0))


def test_headers_of_a_refusal_are_of_the_violated_window_with_the_longest_wait() -> None:
    looks = [look(100, 3), look(1000, 0, 60_000, 2000), look(50, 0, 1000, 9000)]
    answer = refuse(plan_for(OWN, MINUTE, HOUR, window("burst", 50)), looks).http
    assert answer is not None
    assert dict(answer.headers) == {"Limit": "50", "Left": "0", "Reset": "in 1 s", "Plan": "free"}


def test_a_refusal_by_something_else_shows_what_was_not_taken() -> None:
    answer = refuse(plan_for(OWN, MINUTE, balance("credits")), [look(100, 100, 0), look(0, 0, -1, -1)]).http
    assert answer is not None
    assert answer.headers["Left"] == "100"
    assert answer.headers["Reset"] == "in 0 s"


def test_without_a_window_the_headers_of_rates_are_left_out() -> None:
    assert granted(OWN, [slots("jobs", 5)], [look(5, 4, -1)]) == {"Plan": "free"}


@pytest.mark.parametrize("envelope", [None, replace(OWN, headers={429: OWN.headers[429]})], ids=["none", "no 200"])
def test_a_policy_without_headers_on_grants_has_none(envelope: Envelope | None) -> None:
    assert granted(envelope, [MINUTE], [look(100, 50)]) is None


def test_a_replay_whose_figures_are_gone_tells_none() -> None:
    assert granted(OWN, [MINUTE], ()) == {"Plan": "free"}
    assert granted(IETF, [MINUTE], ()) is None


# the standards


def test_the_standard_fields_tell_of_the_two_limits_of_which_the_smallest_part_is_left() -> None:
    limits = [
        MINUTE,
        HOUR,
        window("tpm", 5000, "tokens", window_ms=1500),
        quota("month", 200),
        quota("counted", None),
        slots("jobs", 4),
        balance("credits"),
        slots("watched", 1, shadow=True),
    ]
    looks = [look(100, 90), look(1000, 20), look(5000, 50), look(200, 60, 86_400_000)]
    looks += [look(MAX_AMOUNT, 5), look(4, 3, -1), look(7, 0, -1), look(1, 0, -1)]
    assert granted(IETF, limits, looks) == {
        "RateLimit-Policy": '"tpm";q=5000;w=2;qu="tokens", "hour";q=1000;w=60',
        "RateLimit": '"tpm";r=50;t=5, "hour";r=20;t=5',
    }
    looks[1:3] = [look(1000, 1000), look(5000, 5000)]
    assert granted(IETF, limits, looks) == {
        "RateLimit-Policy": '"month";q=200;qu="frames", "jobs";q=4;qu="concurrent-requests"',
        "RateLimit": '"month";r=60;t=86400, "jobs";r=3',
    }


def test_the_standard_fields_of_a_refusal_tell_of_what_blocks() -> None:
    answer = refuse(plan_for(IETF, MINUTE, HOUR), [look(100, 0, 1000, 1000), look(1000, 1)]).http
    assert answer is not None
    assert answer.status == 429
    assert dict(answer.headers) == {
        "RateLimit-Policy": '"minute";q=100;w=60',
        "RateLimit": '"minute";r=0;t=1',
        "Content-Type": "application/problem+json",
        "Retry-After": "1",
    }
    assert answer.body is not None
    assert answer.body["violated-policies"] == ["minute"]


def test_a_condition_of_the_account_is_a_problem_of_no_quota() -> None:
    """And no promise that waiting helps; what the policy says of it are members of their own."""
    answer = refuse(plan_for(IETF, flag_gate("paid", expect=True), MINUTE), [look(100, 7)]).http
    assert answer is not None
    assert answer.headers["RateLimit"] == '"minute";r=7;t=5'
    assert "Retry-After" not in answer.headers
    assert answer.body == {
        "type": "about:blank",
        "title": "Payment Required",
        "status": 402,
        "detail": "paid: 0 of 0",
        "code": "paid",
        "retryable": False,
        "needed": 0,
    }


def test_a_status_without_words_of_its_own_has_those_of_its_class() -> None:
    plan = plan_for(IETF, flag_gate("paid", expect=True))
    odd = replace(plan.policy.refusals["paid"], http_status=499)
    shape = replace(plan.shape, policy=replace(plan.policy, refusals={"paid": odd}))
    answer = refuse(plan._replace(shape=shape), ()).http
    assert answer is not None
    assert answer.body is not None
    assert (answer.status, answer.body["title"]) == (499, "Bad Request")
