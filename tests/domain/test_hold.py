"""The life of a hold as data: the one table, against the contract written out again."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.hold import TRANSITIONS, Event, Fraction, Rule, State
from server.domain.units import MAX_AMOUNT, MAX_FRACTION_PARTS
from tests.stores import ROOT

# One row per state: Settle(final=false), Settle(final), Release, Extend. A name is the next state; "same" answers as
# before if equal and fails else, "ignored" is OK with applied=false, "refused" fails.
CONTRACT = """
ACTIVE        ACTIVE   SETTLED       RELEASED  ACTIVE
SETTLED       same     same          ignored   refused
SETTLED_LATE  same     same          ignored   refused
RELEASED      refused  refused       ignored   refused
EXPIRED       EXPIRED  SETTLED_LATE  ignored   refused
DONE          ignored  ignored       ignored   refused
QUEUED        refused  refused       LEFT      QUEUED
PROMOTED      refused  refused       LEFT      ACTIVE
LEFT          refused  refused       ignored   refused
"""
CALLS = (Event.REPORT, Event.SETTLE, Event.RELEASE, Event.EXTEND)
WORDS = {"same": Rule.SAME, "ignored": Rule.IGNORED, "refused": Rule.REFUSED}


def test_the_table_is_the_contracts() -> None:
    expected = {
        (State[row[0]], event): WORDS.get(word) or State[word]
        for row in (line.split() for line in CONTRACT.strip().splitlines())
        for event, word in zip(CALLS, row[1:], strict=True)
    }
    expected[State.ACTIVE, Event.EXPIRE] = State.EXPIRED
    expected[State.QUEUED, Event.EXPIRE] = expected[State.PROMOTED, Event.EXPIRE] = State.LEFT
    expected[State.QUEUED, Event.TURN] = State.PROMOTED

    assert dict(TRANSITIONS) == expected


def test_the_published_page_shows_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs/hold-lifecycle.md").read_text().splitlines()
        if line.startswith("|")
    ]
    start = next(index for index, row in enumerate(rows) if row[0] == "state")
    events = [Event(name) for name in rows[start][1:]]
    published = {
        (State[row[0]], event): told
        for row in rows[start + 2 : start + 2 + len(State)]
        for event, told in zip(events, row[1:], strict=True)
    }

    table = {key: value for key, value in TRANSITIONS.items() if key[1] not in {Event.EXPIRE, Event.TURN}}
    assert published == {
        key: f"→ {value.name}" if isinstance(value, State) else value.value for key, value in table.items()
    }


def test_a_hold_ends_once_and_is_settled_late_at_most_once() -> None:
    """From no ended state does any event lead back, and only an expired hold goes on, to one more state."""
    onward = {state: {to for (start, _), to in TRANSITIONS.items() if start is state} - {state} for state in State}
    moves = {state: {to for to in targets if isinstance(to, State)} for state, targets in onward.items()}

    assert moves[State.ACTIVE] == {State.SETTLED, State.RELEASED, State.EXPIRED}
    assert moves[State.EXPIRED] == {State.SETTLED_LATE}
    assert moves[State.QUEUED] == {State.PROMOTED, State.LEFT}
    assert moves[State.PROMOTED] == {State.ACTIVE, State.LEFT}
    ended = (State.SETTLED, State.SETTLED_LATE, State.RELEASED, State.DONE, State.LEFT)
    assert not any(moves[state] for state in ended)


def test_stored_numbers_of_states_never_change() -> None:
    assert {state.name: state.value for state in State} == {
        "ACTIVE": 1,
        "SETTLED": 2,
        "RELEASED": 3,
        "EXPIRED": 4,
        "SETTLED_LATE": 5,
        "DONE": 6,
        "QUEUED": 7,
        "PROMOTED": 8,
        "LEFT": 9,
    }


def test_the_scripts_have_the_same_numbers() -> None:
    source = Path(ROOT / "server/engine/lua/include/hold_layout.lua").read_text()
    names, numbers = re.search(r"^local (ACTIVE[\w, ]+) = ([\d, ]+)$", source, re.MULTILINE).groups()  # type: ignore[union-attr]  # the test fails where it is missing

    assert dict(zip(names.split(", "), map(int, numbers.split(", ")), strict=True)) == {s.name: s.value for s in State}


@pytest.mark.parametrize(
    ("delivered", "reserved", "amount", "share"),
    [(1, 2, 10, 5), (1, 2, 11, 5), (1, 3, 100, 33), (1, 1_000_000, 3, 1), (0, 5, 100, 0), (1, 2, 0, 0), (7, 7, 9, 9)],
)
def test_a_share_is_rounded_down_but_never_to_nothing(delivered: int, reserved: int, amount: int, share: int) -> None:
    assert Fraction(delivered, reserved).of(amount) == share


@given(st.integers(0, MAX_AMOUNT), st.data())
def test_a_share_lies_within_one_unit_of_the_exact_one(amount: int, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, MAX_FRACTION_PARTS))
    delivered = data.draw(st.integers(0, parts))

    share = Fraction(delivered, parts).of(amount)

    assert 0 <= share <= amount
    assert abs(share * parts - amount * delivered) <= parts
