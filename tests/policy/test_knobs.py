"""Operator knobs: where they are read from, and what a policy makes of them."""

from pathlib import Path

import pytest

from server.domain.errors import PolicyRejectedError
from server.policy.compiler import compile_text
from server.policy.knobs import MAX_KNOB_LENGTH, MAX_SETTINGS_BYTES, KnobSource, filled_in
from tests.policy.texts import rejection, shop_text

KNOBBED = shop_text(
    limits='[{id: rpm, kind: window, meter: requests, window: "${WINDOW_S:-60}s", limit: "${RPM}", refuse: no}]',
    refusals="{no: {http: 429, message: No.}}",
)


@pytest.mark.parametrize(
    ("text", "values", "result"),
    [
        ("${X:-180}s", {}, "180s"),
        ("${X:-180}s", {"X": "240"}, "240s"),
        ("${X:-180}s", {"X": ""}, "180s"),
        ("$${X:-30}", {"X": "5"}, "$5"),
        ("${X:-}", {}, ""),
        ("${X}${Y}", {"X": "1", "Y": "2"}, "12"),
        ("${X}", {"X": "${Y}", "Y": "2"}, "${Y}"),
        ("cost ${used:usd}", {}, "cost ${used:usd}"),
        ("$30", {}, "$30"),
    ],
)
def test_a_knob_is_replaced_once(text: str, values: dict[str, str], result: str) -> None:
    assert filled_in(text, values)[0] == result


@pytest.mark.parametrize("value", ["a\nb", "\x00", "9" * (MAX_KNOB_LENGTH + 1)])
def test_a_knob_that_is_no_short_line_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match=r"^X is no printable text"):
        filled_in("${X}", {"X": value})


def test_a_whole_value_from_a_knob_is_read_like_one_in_the_file() -> None:
    policy = compile_text(KNOBBED.replace("refuse: no}", 'refuse: no, shadow: "${QUIET:-false}"}'), "t", {"RPM": "7"})
    (rpm,) = policy.limits
    assert (rpm.values.constant, rpm.shadow) == (7, False)


def test_the_version_follows_the_knobs_that_the_policy_read_and_no_others() -> None:
    versions = [
        compile_text(KNOBBED, "t", knobs).version
        for knobs in ({"RPM": "7"}, {"RPM": "7", "OTHER": "1"}, {"RPM": "7", "WINDOW_S": "60"}, {"RPM": "8"})
    ]
    assert versions[0] == versions[1] == versions[2] != versions[3]


def test_a_knob_in_a_bad_value_is_named_with_what_it_is() -> None:
    assert rejection(KNOBBED, {"RPM": "off"}) == [
        "7: limits[0].limit: 'off' is no amount; expected a whole number such as 450 or 1_000; RPM is 'off'"
    ]


def test_the_settings_file_wins_over_the_environment(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("# knobs\n\nRPM = 5\nNAME=a=b\n", "utf-8")
    values = KnobSource({"RPM": "9", "OTHER": "1"}, settings).read()
    assert dict(values) == {"RPM": "5", "NAME": "a=b", "OTHER": "1"}


def test_the_settings_file_is_read_anew(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("RPM=5\n", "utf-8")
    source = KnobSource({}, settings)
    assert source.read()["RPM"] == "5"
    settings.write_text("RPM=6\n", "utf-8")
    assert source.read()["RPM"] == "6"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"A=1\nRPM\n", ":2: expected NAME=value"),
        (b"R P M=1\n", ":1: expected NAME=value"),
        (b"A=1\nA=2\n", ":2: A is set twice; keep one line"),
        (b"\xff", ": cannot be read: "),
        (b"#" * (MAX_SETTINGS_BYTES + 1), f": larger than {MAX_SETTINGS_BYTES} bytes"),
    ],
)
def test_a_bad_settings_file_is_named_with_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    settings = tmp_path / "settings"
    settings.write_bytes(content)
    with pytest.raises(PolicyRejectedError) as caught:
        KnobSource({}, settings).read()
    assert caught.value.message.startswith(f"{settings}{problem}")


def test_a_settings_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyRejectedError, match="cannot be read"):
        KnobSource({}, tmp_path / "none").read()
