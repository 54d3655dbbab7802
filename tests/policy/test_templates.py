"""Texts with fields: what each format writes, and what is no template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.templates import Format, Template

APRIL_MS = 1_775_001_600_000
LAST_YEAR_MS = 253_402_300_800_000


@pytest.mark.parametrize(
    ("text", "value", "alone"),
    [
        ("{x}", 10, 10),
        ("{x}", "studio", "studio"),
        ("{x}", True, True),
        ("{x:int}", 10, 10),
        ("{x:usd}", 30_000_000, 30),
        ("{x:usd}", 30_010_000, 30.01),
        ("{x:usd}", 1, 0.000001),
        ("{x:sec}", 185_000, 185),
        ("{x:sec}", 180_001, 180.001),
        ("{x:date}", APRIL_MS, "2026-04-01"),
        ("{x:time}", APRIL_MS, "2026-04-01T00:00:00Z"),
        ("{x:time}", APRIL_MS + 7, "2026-04-01T00:00:00.007Z"),
    ],
)
def test_a_field_alone_keeps_its_type(text: str, value: object, alone: object) -> None:
    rendered = Template.parse(text).render({"x": value})
    assert (rendered, type(rendered)) == (alone, type(alone))


@pytest.mark.parametrize(
    ("text", "value", "sentence"),
    [
        ("Need {x}.", 10, "Need 10."),
        ("Need {x:int}.", 10, "Need 10."),
        ("It is {x}.", False, "It is false."),
        ("${x:usd}.", 30_000_000, "$30."),
        ("${x:usd}.", 30_010_000, "$30.01."),
        ("${x:usd}.", 1, "$0.000001."),
        ("${x:usd}.", -1_500_000, "$-1.5."),
        ("{x:sec} s", 180_001, "180.001 s"),
        ("until {x:date}", APRIL_MS, "until 2026-04-01"),
        ("until {x:time}", APRIL_MS, "until 2026-04-01T00:00:00Z"),
        ("{{{x}}}", 5, "{5}"),
        ("", 5, ""),
        ("/Pricing", 5, "/Pricing"),
    ],
)
def test_a_field_in_a_sentence_is_text(text: str, value: object, sentence: str) -> None:
    assert Template.parse(text).render({"x": value}) == sentence


def test_text_makes_text_of_a_field_alone() -> None:
    assert Template.parse("{x:usd}").text({"x": 30_010_000}) == "30.01"


@pytest.mark.parametrize("text", ["{x}", "{x:usd}", "Wait {x} s.", "{y} {x}"])
@pytest.mark.parametrize("values", [{"y": 1}, {"y": 1, "x": None}])
def test_a_template_whose_field_has_no_value_gives_nothing(text: str, values: dict[str, object]) -> None:
    assert Template.parse(text).render(values) is None


@pytest.mark.parametrize("at_ms", [-1, LAST_YEAR_MS, 2**53 - 1])
def test_a_time_that_no_calendar_shows_gives_nothing(at_ms: int) -> None:
    assert Template.parse("{x:date}").render({"x": at_ms}) is None
    assert Template.parse("until {x:time}").render({"x": at_ms}) is None


def test_a_number_format_of_a_text_is_a_fault() -> None:
    with pytest.raises(TypeError, match="'ten'"):
        Template.parse("{x:usd}").render({"x": "ten"})


def test_fields_are_the_names_that_a_template_needs() -> None:
    assert Template.parse("{a} of {b:usd}, {{c}} {a:int}").fields == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "single '{'"),
        ("a}", "single '}'"),
        ("{a}}", "single '}'"),
        ("{}", "{}"),
        ("{Needed}", "{Needed}"),
        ("{a b}", "{a b}"),
        ("{a:}", "{a:}"),
        ("{a:eur}", "{a:eur}"),
        ("{a:USD}", "{a:USD}"),
    ],
)
def test_a_bad_field_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"field|formats|brace") as caught:
        Template.parse(text)
    assert named in str(caught.value)


@given(st.text(alphabet="{}ab:usd "))
def test_every_text_either_parses_or_says_why_not(text: str) -> None:
    try:
        template = Template.parse(text)
    except ValueError:
        return
    rendered = template.text(dict.fromkeys(template.fields, 1_000_000))
    assert rendered is not None


@given(st.integers(min_value=0, max_value=2**53 - 1), st.sampled_from([(Format.USD, 10**6), (Format.SEC, 10**3)]))
def test_amounts_in_sentences_are_exact(amount: int, form: tuple[Format, int]) -> None:
    written = Template.parse(f"{{x:{form[0]}}}").text({"x": amount})
    assert written is not None
    whole, _, fraction = written.partition(".")
    digits = len(str(form[1])) - 1
    assert int(whole) * form[1] + int(fraction.ljust(digits, "0")) == amount
    assert not fraction.endswith("0")
