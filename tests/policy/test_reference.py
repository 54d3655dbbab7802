"""docs/policies.md names everything that a policy may hold, and its example is right."""

import re
from pathlib import Path
from typing import get_args

import pytest

from server.domain.templates import Format
from server.policy import fields
from server.policy.kinds import (
    BalanceModel,
    CountModel,
    GateModel,
    GuardModel,
    QuotaModel,
    SlotsModel,
    WindowModel,
)
from server.policy.kinds.base import LimitModel
from server.policy.model import Model
from server.policy.schema import EnvelopeModel, HoldModel, MeterModel, PolicyModel, PriceModel, RefusalModel
from tests.policy.texts import shop

REFERENCE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text("utf-8")
KINDS = [GuardModel, GateModel, QuotaModel, WindowModel, SlotsModel, BalanceModel, CountModel]
SHAPES = [PolicyModel, MeterModel, HoldModel, PriceModel, *KINDS]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_key_is_in_the_reference(shape: type[Model]) -> None:
    keys = [field.alias or name for name, field in shape.model_fields.items()]
    assert [key for key in keys if f"`{key}`" not in REFERENCE] == []


@pytest.mark.parametrize("shape", [RefusalModel, EnvelopeModel])
def test_every_key_of_an_answer_is_in_the_example(shape: type[Model]) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    apart = {"problem"}  # a body of its own, so it cannot stand beside one
    assert [name for name in shape.model_fields if f"{name}:" not in example and name not in apart] == []
    assert [name for name in apart if f"`{name}: " not in REFERENCE] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_reference(kind: type[LimitModel]) -> None:
    (name,) = get_args(kind.model_fields["kind"].annotation)
    assert f"| `{name}` |" in REFERENCE


def test_every_field_and_format_is_in_the_reference() -> None:
    names = {*fields.RESERVED, *(form.value for form in Format if form)}
    assert sorted(name for name in names if f"`{name}`" not in REFERENCE) == []


def test_the_example_is_good() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    sections = dict(re.findall(r"^(\w+):((?:\n .*)+)", example, re.MULTILINE))
    limits = (
        "\n  - {id: b, kind: balance, meter: credits, refuse: insufficient_credits}"
        "\n  - {id: w, kind: window, meter: requests, window: 60s, limit: 1, refuse: slow}"
    )
    slow = "\n  slow: {http: 429, retryable: true, message: Slow down.}"
    policy = shop(limits=limits, refusals=sections["refusals"] + slow, envelope=sections["envelope"])
    assert policy.refusals["insufficient_credits"].message.render({"needed": 10, "have": 4}) == (
        "Need 10 credits, you have 4."
    )
