"""Whatever a file holds, it is a policy or it is rejected with its problems; nothing else happens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import PolicyRejectedError
from server.domain.policy import Policy
from server.policy.compiler import compile_text
from tests.policy.texts import SHOP

GOOD = (Path(__file__).parents[2] / "policies" / "credit-gate.yaml").read_text("utf-8")
KEYS = [
    "policy", "tenant", "scope", "meters", "plans", "default_plan", "values", "hold", "actions", "prices", "limits",
    "refusals", "precedence", "envelope", "id", "kind", "meter", "limit", "window", "when", "refuse", "allow", "of",
    "flag", "is", "opening", "http", "message", "fields", "body", "headers", "types", "+", "per", "charge", "lease",
]  # fmt: skip
SCALARS = [
    "guard", "gate", "window", "slots", "balance", "free", "$free", "$1", "60s", "1", "-1", "429", "true", "null",
    "unlimited", "action", "x", "{x}", "{plan}", "fields", "${A}", "${A:-1}s", "1_0", "9" * 25, "~", "",
]  # fmt: skip
SNIPPETS = [
    "\n",
    "\n  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    '"',
    "'",
    "|",
    "&a ",
    "*a",
    "!!int ",
    "#",
    "\t",
    "\0",
    "é",
]


def outcome(text: str) -> Policy | None:
    try:
        return compile_text(text, "fuzz.yaml", {"A": "7"})
    except PolicyRejectedError as error:
        lines = error.message.splitlines()
    assert lines
    assert [line for line in lines if not line.startswith("fuzz.yaml:")] == []
    return None


@given(st.lists(st.sampled_from([*KEYS, *SCALARS, *SNIPPETS]), max_size=60).map("".join))
def test_pieces_of_policies(text: str) -> None:
    outcome(text)


@given(st.text())
def test_any_text(text: str) -> None:
    outcome(text)


values = st.recursive(
    st.sampled_from(SCALARS).map(lambda scalar: f"{scalar!r}" if "{" in scalar else scalar),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from([*KEYS, *SCALARS[:12]]), inner, max_size=4).map(
            lambda items: f"{{{', '.join(f'{key}: {value}' for key, value in items.items())}}}"
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=8))
def test_any_values_under_known_keys(items: dict[str, str]) -> None:
    outcome("".join(f"{key}: {value}\n" for key, value in items.items()))


@given(st.sampled_from([SHOP, GOOD]), st.data())
def test_a_good_policy_with_one_place_overwritten(good: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 30))
    piece = data.draw(st.sampled_from([*KEYS, *SCALARS, *SNIPPETS]) | values)
    policy = outcome(good[:start] + piece + good[start + length :])
    assert policy is None or policy.limits or "limits" not in policy.text


@given(st.sampled_from([SHOP, GOOD]), st.data())
def test_a_good_policy_with_one_value_replaced(good: str, data: st.DataObject) -> None:
    lines = good.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    head, colon, _ = lines[number].partition(": ")
    lines[number] = f"{head}{colon}{data.draw(values)}"
    outcome("\n".join(lines))


def test_the_fuzzed_policies_are_good_to_begin_with() -> None:
    assert outcome(SHOP)
    assert outcome(GOOD)
    with pytest.raises(PolicyRejectedError):
        compile_text("x: 1", "fuzz.yaml", {})
