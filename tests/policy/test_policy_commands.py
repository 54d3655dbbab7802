"""What `holdgate policy …` prints, and the exit status that a customer's CI sees."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server import policy_commands
from server.policy.json_schema import json_schema
from tests.policy.texts import SHOP, shop, shop_text, with_limits

NOBODY: Mapping[str, object] = {"plan": None, "flags": {}}
NOTHING: Mapping[str, Any] = {}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDGATE_SETTINGS_FILE", raising=False)


def written(folder: Path, text: str, name: str = "shop.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def explained(
    capsys: pytest.CaptureFixture[str],
    path: Path,
    plan: str = "free",
    scope: Mapping[str, str] = NOTHING,
    amounts: Mapping[str, int] = NOTHING,
) -> dict[str, list[str]]:
    """The printed cells of each limit, by its id."""
    assert policy_commands.explain(path, {"plan": plan, "flags": {"vip": True}}, "call", scope, amounts) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[1:] for row in cells if row}


def test_check_prints_a_line_for_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, SHOP)
    assert policy_commands.check([path]) == 0
    assert capsys.readouterr().out == f"ok  {path}  shop  version {shop().version}\n"


def test_check_prints_every_problem_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path, shop_text(policy="other"), "a.yaml")
    bad = written(tmp_path, SHOP + "extra: 1\nmore: 2\n", "b.yaml")
    assert policy_commands.check([tmp_path]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"ok  {good}  other  version ")
    assert second.startswith(f"{bad}:11: extra: unknown key")
    assert third.startswith(f"{bad}:12: more: unknown key")


def test_check_of_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_commands.check([tmp_path]) == 1
    assert capsys.readouterr().out == f"{tmp_path}: the directory has no *.yaml file\n"


def test_check_reads_knobs_like_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, SHOP.replace("limit: 30", 'limit: "${RPM}"'))
    monkeypatch.setenv("RPM", "5")
    assert policy_commands.check([path]) == 0
    monkeypatch.setenv("HOLDGATE_SETTINGS_FILE", str(written(tmp_path, "RPM=many\n", "settings")))
    assert policy_commands.check([path]) == 1
    assert "RPM is 'many'" in capsys.readouterr().out


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_commands.schema() == 0
    assert capsys.readouterr().out == json_schema()


def test_explain_shows_each_limit_with_its_value_and_where_that_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = with_limits(
        "id: length, kind: guard, meter: video_ms, limit: 180s",
        "id: cost, kind: guard, meter: usd_micros, limit: {free: $0.50, pro: $5}",
        "id: vip, kind: gate, flag: vip",
        "id: model, kind: gate, of: model, allow: {free: [small], pro: [small, big]}",
        "id: rpm, kind: window, meter: requests, window: 60s, limit: 30",
        "id: tpm, kind: window, meter: credits, window: 60s, limit: 5, shadow: true",
        "id: pool, kind: slots, limit: 1, scope: [model]",
        "id: credits, kind: balance, meter: credits, room: {call: 1}",
    )
    path = written(tmp_path, policy.text)
    asked = {"video_ms": 181_000, "usd_micros": 500_000, "credits": 7}
    rows = explained(capsys, path, scope={"model": "big"}, amounts=asked)
    depends = "depends on what is used; else refused: 429 no"
    assert rows["length"] == ["guard", "every action", "181 s", "180 s", "every plan, line 8", "refused: 429 no"]
    assert rows["cost"] == ["guard", "every action", "$0.5", "$0.5", "plan free, line 9", "passes"]
    assert rows["vip"] == ["gate", "every action", "flag vip: set", "set", "line 10", "passes"]
    assert rows["model"][2:] == ["model: big", "small", "plan free, line 11", "refused: 429 no"]
    assert rows["rpm"][2:] == ["1 requests", "30 requests", "every plan, line 12", depends]
    assert rows["tpm"][5] == "noted: 429 no, always: it asks for more than there can be"
    assert rows["pool"][1:4] == ["every action; per model", "1", "1"]
    assert rows["credits"][2:4] == ["room for 1 credits", "0 credits at first"]


def test_explain_says_why_a_limit_does_not_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = with_limits(
        "id: renders, kind: slots, limit: 1, when: {action: render}",
        "id: big, kind: slots, limit: 1, when: {model: [big, huge]}",
        "id: open, kind: slots, limit: {free: unlimited, pro: 5}",
    )
    rows = explained(capsys, written(tmp_path, policy.text), scope={"model": "small"})
    assert rows["renders"] == ["slots", "the action is call; it is for render"]
    assert rows["big"] == ["slots", "model is small; it is for big, huge"]
    assert rows["open"] == ["slots", "it is unlimited on plan free"]


def test_explain_says_what_a_quota_does_above_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = with_limits(
        "id: hard, kind: quota, meter: credits, limit: {free: 1_000, pro: 5}",
        "id: soft, kind: quota, meter: credits, limit: 1_000, grace: 3d",
        "id: billed, kind: quota, meter: credits, limit: 1_000, overage: unlimited, price: $0.01",
        "id: counted, kind: quota, meter: credits, limit: unlimited, scope: [model], optional_for: [call]",
    )
    path = written(tmp_path, policy.text)
    rows = explained(capsys, path, scope={"model": "big"}, amounts={"credits": 7})
    assert rows["hard"][3:] == [
        "1000 credits per cycle",
        "plan free, line 8",
        "depends on what is used; else refused: 429 no",
    ]
    assert rows["soft"][5] == "passes until 259200 s after exhaustion"
    assert rows["billed"][5] == "passes: use above the limit is billed"
    assert rows["counted"][3:] == ["unlimited", "every plan, line 11", "passes: it only counts"]
    rows = explained(capsys, path, scope={}, amounts={"credits": 7})
    assert rows["counted"] == ["quota", "model is not named; call need not name it"]


def test_explain_names_the_row_and_the_knob_that_a_value_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRO_RPM", "90")
    text = shop_text(values='{top: {free: 1, pro: "${PRO_RPM:-60}"}}').replace("limit: 30", "limit: $top")
    rows = explained(capsys, written(tmp_path, text), plan="pro")
    assert rows["rpm"][3:5] == ["90 requests", "$top, plan pro, line 11, PRO_RPM=90"]


@pytest.mark.parametrize(
    ("plan", "scope", "amounts", "problem"),
    [
        (None, {}, {}, "--plan: is required, as policy 'shop' has no default plan; it has: free, pro"),
        ("gold", {}, {}, "--plan: policy 'shop' has no plan 'gold'; it has: free, pro"),
        ("free", {"region": "eu"}, {}, "region"),
        ("free", {}, {"tokens": 1}, "tokens"),
    ],
)
def test_explain_of_a_request_that_cannot_be_says_why(  # noqa: PLR0913, PLR0917  # a case's columns
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plan: str | None,
    scope: dict[str, str],
    amounts: dict[str, int],
    problem: str,
) -> None:
    path = written(tmp_path, SHOP)
    assert policy_commands.explain(path, {"plan": plan, "flags": {}}, "call", scope, amounts) == 1
    assert problem in capsys.readouterr().out


def test_explain_of_a_bad_file_names_its_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "policy: shop\n")
    assert policy_commands.explain(path, NOBODY, "call", {}, {}) == 1
    assert capsys.readouterr().out.splitlines()[0] == f"{path}:1: 'tenant' is missing"


def test_explain_uses_the_default_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, shop_text(default_plan="free"))
    assert policy_commands.explain(path, NOBODY, "call", {}, {}) == 0
    assert "call on plan free" in capsys.readouterr().out
