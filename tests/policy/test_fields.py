"""What the compiler lets a template name is what a decision fills in, and the other way round."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from server.domain.account import Account
from server.domain.decision import refuse
from server.domain.errors import PolicyRejectedError
from server.domain.limits.base import Look
from server.domain.operation import Operation, TenantRef
from server.domain.plan import make_plan
from server.domain.policy import Policy
from server.policy import fields
from tests.policy.texts import shop

KINDS = {
    "guard": "kind: guard, meter: requests, limit: 0",
    "gate": "kind: gate, of: model, allow: {free: [small], pro: [small, big]}",
    "flag": "kind: gate, flag: vip",
    "window": "kind: window, meter: requests, window: 60s, limit: 5, scope: [model]",
    "slots": "kind: slots, limit: 5, typical: 15s",
    "balance": "kind: balance, meter: requests",
}


def refused(policy: Policy) -> dict[str, object]:
    """The fields of the refusal when the only limit blocks, by name."""
    operation = Operation(ref=TenantRef("shop", "o1"), action="call", scope={"model": "big"})
    plan = make_plan(policy, operation, Account(plan="free"), now_ms=0)
    waits = -1 if plan.checks and plan.checks[0].limit.kind.name == "BALANCE" else 4000
    decision = refuse(plan, [Look(5, 5, 0, 60_000, waits) for _ in plan.checks])
    assert decision.refusal is not None
    return dict(decision.refusal.details)


def admitted(kind: str) -> Iterator[str]:
    """The names that a refusal's field may have for a limit of this kind."""
    for name in sorted(fields.RESERVED | {"model"}):
        with suppress(PolicyRejectedError):
            with_field(kind, f'f: "{{{name}}}"')
            yield name


def with_field(kind: str, entries: str) -> Policy:
    return shop(
        limits=f"[{{id: x, {KINDS[kind]}, refuse: no}}]",
        refusals=f"{{no: {{http: 429, retryable: true, message: No., fields: {{{entries}}}}}}}",
        envelope='{body: {error: {"+": fields}}}',
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_refusal_may_name_is_filled(kind: str) -> None:
    names = set(admitted(kind))
    assert names >= fields.REFUSAL.keys()
    policy = with_field(kind, ", ".join(f'f_{name}: "{{{name}}}"' for name in names))
    assert {name for name in names if f"f_{name}" in refused(policy)} == names


@pytest.mark.parametrize(
    ("kind", "name", "is_admitted"),
    [
        ("guard", "used", True),
        ("guard", "retry_after", False),
        ("gate", "allowed", True),
        ("gate", "used", False),
        ("flag", "requested", False),
        ("window", "retry_after", True),
        ("window", "rate_reset", True),
        ("slots", "retry_after", True),
        ("slots", "rate_reset", False),
        ("balance", "have", True),
        ("balance", "retry_after", False),
    ],
)
def test_what_a_kind_cannot_tell_is_rejected(kind: str, name: str, is_admitted: bool) -> None:  # noqa: FBT001  # a case's column
    assert (name in set(admitted(kind))) is is_admitted


def test_what_an_envelope_may_name_is_filled() -> None:
    names = [*fields.ENVELOPE, *fields.TYPE, *fields.WINDOWS, *fields.RETRY_AFTER, "model"]
    shape = ", ".join(f'{name}: "{{{name}}}"' for name in names)
    headers = ", ".join(f'X-{name.replace("_", "-")}: "{{{name}}}"' for name in names)
    policy = shop(envelope=f"{{types: {{429: slow}}, body: {{{shape}}}, headers: {{429: {{{headers}}}}}}}")
    operation = Operation(ref=TenantRef("shop", "o1"), action="call", scope={"model": "big"})
    plan = make_plan(policy, operation, Account(plan="free"), now_ms=0)
    http = refuse(plan, [Look(30, 30, 0, 60_000, 4000)]).http
    assert http is not None
    assert http.body is not None
    assert set(http.body) == set(names)
    assert len(http.headers) == len(names)
