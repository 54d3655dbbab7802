"""Mixes and arguments, as people write them."""

from pathlib import Path

import pytest

from loadtest.mix import Ends
from loadtest.mix_text import MixError, mix_of_words, read_mix, shipped
from loadtest.plan import Closed, Open
from loadtest.planning import Misused, plan_of
from loadtest.spreads import Share, Units, Wait
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.loadtest.plans import arguments, plan

ROOT = Path(__file__).resolve().parents[2]


def test_words_make_a_mix() -> None:
    mix = mix_of_words(["chat tokens=100..900 @model=small,large *3", "render +v-fast:video_ms=5000"], {"hold": "5ms"})

    chat, render = mix.entries
    assert (chat.action, chat.weight, chat.amounts) == ("chat", 3, {"tokens": Units(100, 900)})
    assert chat.scope == {"model": ("small", "large")}
    assert chat.hold == Wait(0.005, 0.005)
    assert (render.items[0].product, render.items[0].quantity) == ("v-fast", {"video_ms": Units(5000, 5000)})
    assert mix.cumulative_weights() == (3, 4)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "entries[0].action"),
        ("chat tokens", "'tokens' is not understood"),
        ("chat tokens=many", "entries[0].amounts.tokens: 'many' is no amount"),
        ("chat @model", "'@model' is not understood"),
        ("chat +v-fast=5", "'+v-fast=5' is not understood"),
        ("chat *many", "entries[0].weight"),
        ("chat *0", "give one of them a weight"),
    ],
)
def test_words_that_make_no_mix_are_named(words: str, complaint: str) -> None:
    with pytest.raises(MixError) as refused:
        mix_of_words([words], {})

    assert complaint in str(refused.value)


def test_one_fault_is_told_once() -> None:
    with pytest.raises(MixError) as refused:
        mix_of_words(["work credits=x"], {})
    expected = (
        "--request: entries[0].amounts.credits: 'x' is no amount; write a whole number such as 5, or a range such as"
    )
    (line,) = str(refused.value).splitlines()
    assert line.startswith(expected)


def test_a_file_says_what_the_command_line_leaves_open(tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(
        """
        policy: p
        accounts: {plan: pro, opening: {credits: 100}}
        entries:
          - {action: a, ends: {settle: 1, abandon: 1}, scope: {project: 7}}
          - {action: b, delivered: 0.5..1}
        """
    )

    mix = read_mix(str(file), {"ends": {"release": 1, "settle": 0}, "delivered": "0.1"})

    assert mix.entries[0].ends == Ends(settle=1, abandon=1)
    assert mix.entries[1].ends == Ends(settle=0, release=1)
    assert [entry.delivered for entry in mix.entries] == [Share(0.1, 0.1), Share(0.5, 1)]
    assert mix.entries[0].scope == {"project": ("7",)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a", "expected a mapping"),
        ("entries: []", "mix.yaml: entries"),
        ("entries: [{action: a, weigth: 2}]", "entries[0].weigth"),
        ("entries: [{action: a, ends: {settle: 0}}]", "entries[0].ends: all weights are 0"),
        ("entries: [{action: a, hold: later}]", "entries[0].hold: 'later' is no time"),
        ("{", "is not YAML"),
        ("a: " + "[" * 100_000, "is not YAML"),
        (" " * 1_100_000, "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_mix_is_named_with_its_place(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(text)

    with pytest.raises(MixError) as refused:
        read_mix(str(file), {})

    assert complaint in str(refused.value)


def test_a_mix_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(MixError, match="credit-gate, quickstart"):
        read_mix("nowhere.yaml", {})


@pytest.mark.parametrize("name", shipped())
def test_a_mix_that_comes_along_fits_its_policy(name: str) -> None:
    policy = PolicyStore.load([ROOT / "policies"], KnobSource()).get(name)
    mix = read_mix(name, {})

    assert mix.policy == policy.name
    assert mix.accounts is not None
    assert mix.accounts.plan in policy.plans
    assert {entry.action for entry in mix.entries} <= set(policy.actions)


@pytest.mark.parametrize("target", ["10.0.0.1:50051", "192.0.2.1:1", "[2001:db8::1]:50051", "0.0.0.0:50051"])
def test_a_server_elsewhere_is_loaded_by_its_owner_only(target: str) -> None:
    with pytest.raises(Misused, match="--i-own-this-target"):
        plan(target=target)

    assert plan("--i-own-this-target", target=target).target.address == target


@pytest.mark.parametrize("target", ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1"])
def test_a_server_on_this_machine_needs_no_word(target: str) -> None:
    assert plan(target=target).target.address == target


def test_the_pace_is_closed_unless_a_rate_is_given() -> None:
    assert plan().pace == Closed(16)
    assert plan("--callers", "3").pace == Closed(3)
    assert plan("--rate", "250").pace == Open(250, 4096)
    assert plan("--callers", "2", "--processes", "8").processes == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--target", "nowhere"), "'nowhere' is no address"),
        (("--callers", "0"), "--callers 0: from 1"),
        (("--rate", "0"), "--rate 0: from 0.001"),
        (("--rate", "nan"), "--rate nan"),
        (("--tenants", "0"), "0 tenants: from 1"),
        (("--tenants", "2000000"), "2000000 tenants"),
        (("--spread", "odd"), "'odd' is no spread"),
        (("--duration", "0s"), "--duration 0"),
        (("--duration", "48h"), "--duration 172800"),
        (("--repeats", "2"), "--repeats 2"),
        (("--batch", "257"), "--batch 257"),
        (("--opening", "credits"), "--opening 'credits'"),
        (("--setup",), "--plan"),
        (("--json", "no/such/folder/report.json"), "no such folder"),
        (("--html", "."), "is a folder; name a file to write"),
        (("--settle", "0"), "all weights are 0"),
    ],
)
def test_arguments_that_make_no_plan_are_named(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(Misused) as refused:
        plan_of(arguments("--request", "work", *words))

    assert complaint in str(refused.value)


def test_set_up_is_as_the_mix_says_and_the_command_line_adds() -> None:
    made = plan_of(
        arguments("--mix", "quickstart", "--setup", "--plan", "free", "--opening", "requests=7", "--flag", "x")
    )

    assert made.mix.accounts is not None
    assert made.mix.accounts.plan == "free"
    assert made.mix.accounts.opening == {"credits": 1_000_000, "requests": 7}
    assert made.mix.accounts.flags == {"x": True}
