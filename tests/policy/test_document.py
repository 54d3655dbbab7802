"""The subset of YAML that a policy is written in."""

import time

import pytest

from server.domain.errors import PolicyRejectedError
from server.policy.compiler import compile_text
from server.policy.document import MAX_REPORTED, MAX_TEXT_BYTES, Document


def data(text: str) -> object:
    return Document(text, "t", {}).data


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyRejectedError) as caught:
        Document(text, "t", {})
    return caught.value.message.splitlines()


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("30", 30),
        ("-1", -1),
        ("1_000", 1000),
        ("true", True),
        ("false", False),
        ("'30'", "30"),
        ('"true"', "true"),
        ("''", ""),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("012", "012"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
        ("1e3", "1e3"),
        ("0.05", "0.05"),
        (".inf", ".inf"),
        ("2026-04-01", "2026-04-01"),
        ("=", "="),
        ("9" * 30, "9" * 30),
    ],
)
def test_only_whole_numbers_and_true_and_false_are_not_text(written: str, value: object) -> None:
    read = data(f"x: {written}")
    assert read == {"x": value}
    assert isinstance(read, dict)
    assert type(read["x"]) is type(value)


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert data("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize("written", ["null", "~", ""])
def test_a_key_needs_a_value(written: str) -> None:
    assert problems(f"a: 1\nx: {written}") == ["t:2: x: has no value; give it one, or leave the key out"]


def test_lines_are_those_of_keys_and_list_entries() -> None:
    document = Document("a:\n  b:\n  - 1\n  -\n    c: 2\n", "t", {})
    assert [document.line(path) for path in (("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1, "c"))] == [1, 2, 3, 5]


def test_a_missing_value_has_the_line_of_what_is_around_it() -> None:
    assert Document("a:\n  b: 1\n", "t", {}).line(("a", "c")) == 1


def test_every_repeated_key_is_reported() -> None:
    assert problems("a: 1\na: 2\nb: {c: 1, c: 2}") == [
        "t:2: a: the key stands here twice; keep one",
        "t:3: b.c: the key stands here twice; keep one",
    ]


def test_a_rejection_lists_a_bounded_number_of_problems() -> None:
    lines = problems("".join(f"k{number}:\n" for number in range(MAX_REPORTED + 5)))
    assert len(lines) == MAX_REPORTED + 1
    assert lines[-1] == "t: and 5 more"


def test_a_key_with_strange_characters_is_shown_on_one_line() -> None:
    (line,) = problems('"a\\nb": {x: 1, x: 2}')
    assert line == "t:1: 'a\\nb'.x: the key stands here twice; keep one"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        "{a: " * 200_000,
        "- " * 500_000,
        "? " * 500_000,
        "a: &a [" + "*a, " * 200_000,
        "&a [1, &b [*a, *a], &c [*b, *b]]",
        "x" * MAX_TEXT_BYTES,
        "x: 1\n" * 200_000,
        "- 1\n" * 250_000,
        "[1, " * 1000,
        '"' + "\\x41" * 250_000,
        "a: |\n" + " b\n" * 300_000,
        "\t" * MAX_TEXT_BYTES,
        "\0",
        "\ud800",
        "%YAML 9.9\n---\na: 1",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_text_is_rejected_in_bounded_time(text: str) -> None:
    began = time.process_time()
    with pytest.raises(PolicyRejectedError):
        compile_text(text, "t", {})
    assert time.process_time() - began < 10


def test_a_text_above_the_bound_is_not_parsed() -> None:
    assert problems("#" * (MAX_TEXT_BYTES + 1)) == [f"t:1: larger than {MAX_TEXT_BYTES} bytes"]
