"""The policies that come with Holdgate: they load, and their figures are those that were published."""

from pathlib import Path

import pytest

from server.domain.limits import Balance, Gate, Slots, Window
from server.domain.policy import HoldTerms, Policy
from server.policy.compiler import compile_text

FOLDER = Path(__file__).parents[2] / "policies"


def shipped(name: str, **knobs: str) -> Policy:
    path = FOLDER / f"{name}.yaml"
    return compile_text(path.read_text("utf-8"), path.name, knobs)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_policy_is_good_named_like_its_file_and_has_a_schema_line(path: Path) -> None:
    text = path.read_text("utf-8")
    assert compile_text(text, path.name, {}).name == path.stem
    assert text.splitlines()[0] == "# yaml-language-server: $schema=../docs/policy.schema.json"


def test_credit_gate_has_the_published_ceilings_and_resolutions() -> None:
    policy = shipped("credit-gate")
    assert policy.plans == ("free", "starter", "creator", "studio")
    assert policy.default_plan is None
    balance = policy.limits[4]
    assert isinstance(balance, Balance)
    assert balance.opening.by_plan == {"free": 45, "starter": 200, "creator": 450, "studio": 1200}
    assert balance.debt == 0
    gate = policy.limits[2]
    assert isinstance(gate, Gate)
    assert gate.allow is not None
    assert {plan: allowed[-1] for plan, allowed in gate.allow.items()} == {
        "free": "720p",
        "starter": "720p",
        "creator": "1080p",
        "studio": "4K",
    }


def test_credit_gate_has_the_fixture_prices() -> None:
    products = shipped("credit-gate").products
    assert {name: (dict(product.block), dict(product.charge)) for name, product in products.items()} == {
        "v-fast": ({"video_ms": 5000}, {"credits": 5, "usd_micros": 500_000}),
        "v-pro": ({"video_ms": 5000}, {"credits": 10, "usd_micros": 1_000_000}),
        "v-cinema": ({"video_ms": 5000}, {"credits": 10, "usd_micros": 4_000_000}),
        "voice": ({"voice_ms": 30_000, "characters": 450}, {"credits": 2, "usd_micros": 20_000}),
        "music": ({"music_ms": 30_000}, {"credits": 3, "usd_micros": 30_000}),
        "still": ({"images": 1}, {"credits": 1, "usd_micros": 10_000}),
    }


def test_credit_gate_holds_for_half_an_hour_and_renews_for_a_day() -> None:
    for action in shipped("credit-gate").actions.values():
        assert action.hold == HoldTerms(1_800_000, 86_400_000, 3_600_000, 120_000)


def test_credit_gate_guards_have_defaults_and_knobs() -> None:
    guarded = frozenset({"create_render", "generate_scene", "generate_clip"})
    length, budget = shipped("credit-gate").limits[:2]
    assert (length.values.constant, length.actions) == (180_000, guarded)
    assert (budget.values.constant, budget.actions) == (30_000_000, guarded)
    length, budget = shipped("credit-gate", MAX_VIDEO_DURATION_SEC="240", MAX_VIDEO_GENERATION_USD="5").limits[:2]
    assert (length.values.constant, budget.values.constant) == (240_000, 5_000_000)
    length, budget = shipped("credit-gate", MAX_VIDEO_DURATION_SEC="0", MAX_VIDEO_GENERATION_USD="0").limits[:2]
    assert (length.values.constant, budget.values.constant) == (0, 0)


@pytest.mark.parametrize(
    ("code", "values", "http", "message", "fields"),
    [
        (
            "insufficient_credits",
            {"needed": 10, "have": 4, "plan": "starter"},
            402,
            "Need 10 credits, you have 4.",
            {"needed": 10, "have": 4, "plan": "starter", "topup_url": "/Pricing"},
        ),
        (
            "video_too_long",
            {"used": 185_000, "limit": 180_000},
            400,
            "Video is 185 s; the limit is 180 s. Shorten or remove scenes.",
            {"duration_sec": 185, "max_duration_sec": 180},
        ),
        (
            "video_over_budget",
            {"used": 30_010_000, "limit": 30_000_000},
            402,
            "Estimated cost is $30.01; the limit is $30. Generate fewer clips or reuse some.",
            {"estimated_usd": 30.01, "max_usd": 30},
        ),
        (
            "resolution_not_in_plan",
            {"requested": "1080p", "allowed": "720p", "plan": "free"},
            403,
            "Your plan allows up to 720p. Choose a lower resolution than 1080p, or upgrade.",
            {"requested": "1080p", "max_resolution": "720p", "plan": "free"},
        ),
    ],
)
def test_credit_gate_refuses_in_the_published_words(
    code: str, values: dict[str, object], http: int, message: str, fields: dict[str, object]
) -> None:
    rule = shipped("credit-gate").refusals[code]
    assert (rule.http_status, rule.retryable) == (http, False)
    assert rule.message.render(values) == message
    assert {name: field.render(values) for name, field in rule.fields.items()} == fields


def test_quickstart_has_a_rate_a_pool_and_credits() -> None:
    policy = shipped("quickstart")
    rpm, jobs, credits_ = policy.limits
    assert policy.default_plan == "free"
    assert isinstance(rpm, Window)
    assert (rpm.window_ms, rpm.values.by_plan) == (60_000, {"free": 10, "pro": 600})
    assert isinstance(jobs, Slots)
    assert (jobs.typical_ms, jobs.values.by_plan) == (30_000, {"free": 1, "pro": 5})
    assert isinstance(credits_, Balance)
    assert credits_.opening.by_plan == {"free": 100, "pro": 10_000}
