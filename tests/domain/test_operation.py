"""Requests against the policy and the bounds: every bad field is named, and equal content is told from other."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.account import Account
from server.domain.errors import InvalidRequestError
from server.domain.operation import Item, Operation, TenantRef, differing_parts
from server.domain.plan import make_plan
from server.domain.policy import Product
from server.domain.units import MAX_AMOUNT, MAX_ID_BYTES, MAX_ITEMS, MAX_METERS, MAX_SCOPE
from tests.policies_for_tests import policy

FILM: Final = Product("film", block={"frames": 240, "tokens": 1000}, charge={"credits": 5})
LAB: Final = policy(products=[FILM])
GOOD: Final = Operation(
    ref=TenantRef("lab", "acme"),
    action="work",
    request_id="r",
    scope={"project": "p"},
    amounts={"tokens": 1},
    items=(Item("a", "film", {"frames": 1}),),
)


def film(item_id: str = "a", **quantity: int) -> Item:
    return Item(item_id, "film", quantity or {"frames": 1})


def test_a_good_request_passes() -> None:
    GOOD.validate(LAB)
    GOOD._replace(request_id="", scope={}, amounts={}, items=()).validate(LAB)
    GOOD._replace(request_id="ü" * 64, amounts={"tokens": MAX_AMOUNT, "credits": 0}).validate(LAB)


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        ({"ref": TenantRef("lab", "")}, "tenant", "must not be empty"),
        ({"ref": TenantRef("lab", "t" * (MAX_ID_BYTES + 1))}, "tenant", "129 bytes; at most 128"),
        ({"request_id": "ü" * 65}, "request_id", "130 bytes; at most 128"),
        ({"request_id": "a\nb"}, "request_id", "control characters"),
        ({"action": "wrok"}, "action", "policy 'lab' has no action 'wrok'; it has: rest, work"),
        ({"scope": {"projct": "p"}}, "scope[projct]", "it has: model, project"),
        ({"scope": {"project": ""}}, "scope[project]", "must not be empty"),
        ({"scope": {"project": "\x00"}}, "scope[project]", "control characters"),
        ({"scope": {str(n): "x" for n in range(MAX_SCOPE + 1)}}, "scope", "has 17 entries; at most 16"),
        ({"amounts": {"toknes": 1}}, "amounts[toknes]", "it has: credits, frames, requests, tokens"),
        ({"amounts": {"tokens": -1}}, "amounts[tokens]", "is -1; must be from 0 to 2^53 - 1"),
        ({"amounts": {"tokens": MAX_AMOUNT + 1}}, "amounts[tokens]", "must be from 0 to 2^53 - 1"),
        ({"amounts": {str(n): 1 for n in range(MAX_METERS + 1)}}, "amounts", "has 17 entries; at most 16"),
        ({"items": (film(""),)}, "items[0].id", "must not be empty"),
        ({"items": (film("a"), film("a"))}, "items[1].id", "named twice"),
        ({"items": (Item("a", "flim", {"frames": 1}),)}, "items[0].product", "it has: film"),
        ({"items": (Item("a", "film", {}),)}, "items[0].quantity", "exactly one meter: frames or tokens"),
        ({"items": (film(frames=1, tokens=1),)}, "items[0].quantity", "exactly one meter"),
        ({"items": (film(credits=1),)}, "items[0].quantity", "exactly one meter"),
        ({"items": (film(frames=-1),)}, "items[0].quantity[frames]", "from 0 to 2^53 - 1"),
        ({"items": tuple(film(str(n)) for n in range(MAX_ITEMS + 1))}, "items", "has 257 entries; at most 256"),
    ],
)
def test_a_bad_field_is_named_with_what_was_expected(bad: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        GOOD._replace(**bad).validate(LAB)  # type: ignore[arg-type]  # fields of the class

    (violation,) = error.value.violations
    assert violation.field == field
    assert words in violation.description


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidRequestError) as error:
        GOOD._replace(action="x", scope={"x": "y"}, amounts={"x": 1}).validate(LAB)

    assert [violation.field for violation in error.value.violations] == ["action", "scope[x]", "amounts[x]"]


def test_bad_names_are_told_in_the_same_order_whatever_order_a_map_has() -> None:
    told = []
    for names in ("ab", "ba"):
        entries = dict.fromkeys(names, "x"), dict.fromkeys(names, 1)
        with pytest.raises(InvalidRequestError) as error:
            GOOD._replace(scope=entries[0], amounts=entries[1]).validate(LAB)
        told.append(error.value.violations)
    assert told[0] == told[1]


def test_a_resolved_policy_name_changes_nothing_else() -> None:
    assert GOOD.of(GOOD.ref) is GOOD
    assert GOOD.of(TenantRef("other", "acme")) == GOOD._replace(ref=TenantRef("other", "acme"))


# fingerprints


def test_the_order_in_which_things_are_named_does_not_matter() -> None:
    one = GOOD._replace(
        scope={"project": "p", "model": "m"}, amounts={"tokens": 1, "credits": 2}, items=(film("a"), film("b"))
    )
    other = GOOD._replace(
        scope={"model": "m", "project": "p"}, amounts={"credits": 2, "tokens": 1}, items=(film("b"), film("a"))
    )

    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"action": "rest"}, ["action"]),
        ({"scope": {"project": "q"}}, ["scope"]),
        ({"scope": {}}, ["scope"]),
        ({"amounts": {"tokens": 2}}, ["amounts"]),
        ({"amounts": {"tokens": 1, "credits": 0}}, ["amounts"]),
        ({"items": ()}, ["amounts"]),
        ({"items": (film("b"),)}, ["amounts"]),
        ({"items": (film(frames=2),)}, ["amounts"]),
        ({"items": (film(tokens=1),)}, ["amounts"]),
        ({"items": (Item("a", "film", {"frames": 1}, reused=True),)}, ["amounts"]),
        ({"check_only": True}, ["mode"]),
        ({"action": "rest", "scope": {}, "amounts": {}, "check_only": True}, ["action", "scope", "amounts", "mode"]),
        ({"request_id": "other"}, []),
        ({"ref": TenantRef("lab", "other")}, []),
    ],
)
def test_a_fingerprint_tells_what_differs(changed: dict[str, object], differs: list[str]) -> None:
    other = GOOD._replace(**changed)  # type: ignore[arg-type]  # fields of the class

    assert differing_parts(GOOD.fingerprint(), other.fingerprint()) == differs


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """It is stored, and compared by servers that started later."""
    assert GOOD.fingerprint().hex() == "f7aaf49ef472d37ffa4eb690ea0c4734"


@given(
    st.dictionaries(st.sampled_from(["tokens", "credits", "frames"]), st.integers(0, MAX_AMOUNT // 2)),
    st.dictionaries(st.sampled_from(["project", "model"]), st.text(min_size=1, max_size=5)),
    st.booleans(),
    st.booleans(),
)
def test_a_plan_has_the_fingerprint_of_its_operation(
    amounts: dict[str, int],
    scope: dict[str, str],
    with_items: bool,  # noqa: FBT001  # drawn
    check_only: bool,  # noqa: FBT001  # drawn
) -> None:
    """A plan digests in parts what its shape has in common; the result is the same, whoever computes it."""
    items = GOOD.items if with_items else ()
    operation = GOOD._replace(amounts=amounts, scope=scope, items=items, check_only=check_only)

    assert make_plan(LAB, operation, Account(plan="free"), 0).fingerprint == operation.fingerprint()
