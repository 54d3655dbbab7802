"""What a process keeps of requests that are alike: bounded over all of them."""

import gc
from typing import Final

import pytest

from server import forms
from server.domain.account import Account, Override
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Shape
from server.forms import Forms
from tests.policies_for_tests import policy, window

REF: Final = TenantRef("lab", "acme")
MOST: Final = 40


def shapes() -> int:
    """How many there are in this process."""
    gc.collect()
    return sum(isinstance(each, Shape) for each in gc.get_objects())


def test_what_is_kept_of_accounts_times_kinds_of_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts with overrides of their own, each asking in every way, must not fill the memory."""
    monkeypatch.setattr(forms, "SHAPES_CACHED", MOST)
    rules = policy(window("rpm", {"free": 5, "pro": 50}, scope=("project",)))
    before, kept = shapes(), Forms()
    for value in range(20):
        account = Account(plan="free", overrides=(Override("rpm", value),), version=1)
        for project in range(20):
            ask = Operation(ref=REF, action="work", scope={"project": str(project)})
            operation, planner = kept.prepared(rules, ask)
            plan = planner(rules, operation, account, 0)
            assert [check.cap for check in plan.checks] == [value]
            del plan
        assert shapes() - before <= MOST
