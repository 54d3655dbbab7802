"""What each construct of a policy compiles to."""

import re

import pytest

from server.domain.limits import Balance, Gate, Guard, Slots, Window
from server.domain.limits.base import Kind, PlanValues
from server.domain.policy import HoldTerms, Meter, Product, Unit
from server.policy.kinds.base import cell_name
from server.policy.values import EXPECTED
from tests.policy.texts import SHOP, rejection, shop, shop_text, with_limits


def test_names_and_meters_are_kept() -> None:
    policy = shop(default_plan="free")
    assert (policy.name, policy.tenant, policy.plans, policy.default_plan) == ("shop", "org", ("free", "pro"), "free")
    assert policy.dimensions == {"model"}
    assert policy.meters["requests"] == Meter("requests", Unit.COUNT, 1)
    assert policy.meters["usd_micros"] == Meter("usd_micros", Unit.MONEY)


def test_the_text_is_kept_and_its_hash_is_the_version() -> None:
    policy = shop()
    assert policy.text == SHOP
    assert re.fullmatch("[0-9a-f]{12}", policy.version)
    assert policy.version == shop().version != shop(scope="[model, region]").version


def test_a_guard_has_its_bound_in_base_units() -> None:
    (guard,) = with_limits("id: length, kind: guard, meter: video_ms, limit: 180s, label: Length").limits
    assert guard == Guard(
        id="length", label="Length", refuse="no", meter="video_ms", values=PlanValues(constant=180_000)
    )


def test_a_gate_on_a_flag() -> None:
    first, second = with_limits(
        "id: a, kind: gate, flag: suspended, is: false", "id: b, kind: gate, flag: billing"
    ).limits
    assert isinstance(first, Gate)
    assert isinstance(second, Gate)
    assert (first.flag, first.expect, second.expect) == ("suspended", False, True)


def test_a_gate_on_a_dimension_keeps_the_order_of_values() -> None:
    (gate,) = with_limits("id: a, kind: gate, of: model, allow: {free: [], pro: [small, big]}").limits
    assert isinstance(gate, Gate)
    assert (gate.of, gate.allow) == ("model", {"free": (), "pro": ("small", "big")})


def test_a_window() -> None:
    (window,) = with_limits(
        "id: rpm, kind: window, meter: requests, window: 1m, limit: {free: 30, pro: unlimited}, scope: [model],"
        " on_release: return, room: {call: 2}, shadow: true"
    ).limits
    assert window == Window(
        id="rpm",
        label="rpm",
        refuse="no",
        meter="requests",
        scope=("model",),
        values=PlanValues(by_plan={"free": 30, "pro": None}),
        room={"call": 2},
        shadow=True,
        cell=cell_name("rpm", Kind.WINDOW, "requests", ("model",), 60_000),
        window_ms=60_000,
        returns=True,
    )


def test_slots_need_no_meter() -> None:
    plain, metered = with_limits(
        "id: jobs, kind: slots, limit: 5, typical: 15s", "id: seats, kind: slots, meter: credits, limit: unlimited"
    ).limits
    assert isinstance(plain, Slots)
    assert (plain.meter, plain.values.of("free"), plain.typical_ms) == ("", 5, 15_000)
    assert isinstance(metered, Slots)
    assert (metered.meter, metered.values.of("free"), metered.typical_ms) == ("credits", None, 0)


def test_a_balance() -> None:
    plain, rich = with_limits(
        "id: credits, kind: balance, meter: credits",
        "id: cash, kind: balance, meter: usd_micros, opening: {free: $0.50, pro: $5}, debt: $1",
    ).limits
    assert isinstance(plain, Balance)
    assert (plain.opening, plain.debt) == (PlanValues(constant=0), 0)
    assert isinstance(rich, Balance)
    assert (rich.opening.by_plan, rich.debt) == ({"free": 500_000, "pro": 5_000_000}, 1_000_000)


def test_a_row_is_read_in_the_unit_of_the_limit_that_refers_to_it() -> None:
    policy = shop(
        values="{top: {free: $1, pro: $2}}",
        limits="[{id: cost, kind: guard, meter: usd_micros, limit: $top, refuse: no}]",
        refusals="{no: {http: 402, message: No.}}",
    )
    assert policy.limits[0].values.by_plan == {"free": 1_000_000, "pro": 2_000_000}


def test_when_splits_into_actions_and_dimensions() -> None:
    one, many, every = with_limits(
        "id: a, kind: slots, limit: 1, when: {action: call, model: [small, big]}",
        "id: b, kind: slots, limit: 1, when: {action: [call, render]}",
        "id: c, kind: slots, limit: 1",
    ).limits
    assert (one.actions, one.when) == (frozenset({"call"}), {"model": frozenset({"small", "big"})})
    assert (many.actions, dict(many.when)) == (frozenset({"call", "render"}), {})
    assert (every.actions, dict(every.when)) == (None, {})


def test_holds_have_defaults_by_policy_and_then_by_action() -> None:
    policy = shop(hold="{lease: 30m, longest: 24h}", actions="{call: {}, render: {hold: {lease: 2h, replay: 5m}}}")
    assert policy.actions["call"].hold == HoldTerms(lease_ms=1_800_000, longest_ms=86_400_000)
    assert policy.actions["render"].hold == HoldTerms(lease_ms=7_200_000, longest_ms=86_400_000, replay_ms=300_000)
    assert shop().actions["call"].hold == HoldTerms()


def test_prices() -> None:
    policy = shop(prices="{v-1: {per: {video_ms: 5s, requests: 3}, charge: {credits: 5, usd_micros: $0.50}}}")
    assert policy.products == {
        "v-1": Product("v-1", {"video_ms": 5000, "requests": 3}, {"credits": 5, "usd_micros": 500_000})
    }


def test_a_block_is_never_empty_but_a_price_may_be_nothing() -> None:
    free = shop(prices="{draft: {per: {video_ms: 5s}, charge: {credits: 0}}}")
    assert free.products["draft"].charge == {"credits": 0}
    assert rejection(shop_text(prices="{draft: {per: {video_ms: 0s}, charge: {credits: 0}}}")) == [
        f"11: prices.draft.per.video_ms: '0s' is nothing; expected {EXPECTED[Unit.DURATION]}, above 0"
    ]


def test_refusals_and_envelope_are_parsed() -> None:
    policy = shop(
        refusals='{rate_limited: {http: 429, retryable: true, message: "{retry_after} s", fields: {used: "{used}"}}}',
        envelope='{types: {429: slow}, body: {e: {type: "{type}", "+": fields}}, headers: {200: {X: "{rate_limit}"}}}',
        precedence="[rate_limited]",
    )
    rule = policy.refusals["rate_limited"]
    assert (rule.code, rule.http_status, rule.retryable) == ("rate_limited", 429, True)
    assert rule.message.render({"retry_after": 2}) == "2 s"
    assert rule.fields["used"].render({"used": 7}) == 7
    assert policy.precedence == ("rate_limited",)
    envelope = policy.envelope
    assert envelope is not None
    error = envelope.body["e"]
    assert isinstance(error, dict)
    assert error["+"] == "fields"
    assert envelope.types == {429: "slow"}
    assert envelope.headers[200]["X"].render({"rate_limit": 9}) == 9


def test_a_cells_name_is_its_id_and_a_short_mark() -> None:
    assert cell_name("rpm", Kind.WINDOW, "requests", ("project",), 60_000) == "rpm~utp"
    assert cell_name("credits", Kind.BALANCE, "credits") == "credits~t5a"


@pytest.mark.parametrize(
    "other",
    [
        (Kind.SLOTS, "requests", ("model",), 60_000),
        (Kind.WINDOW, "tokens", ("model",), 60_000),
        (Kind.WINDOW, "requests", (), 60_000),
        (Kind.WINDOW, "requests", ("model",), 60_001),
    ],
)
def test_kind_meter_scope_and_window_each_start_a_new_cell(other: tuple[Kind, str, tuple[str, ...], int]) -> None:
    assert cell_name("rpm", *other) != cell_name("rpm", Kind.WINDOW, "requests", ("model",), 60_000)


def test_a_changed_value_keeps_the_cell() -> None:
    small, large = (
        with_limits(f"id: rpm, kind: window, meter: requests, window: 60s, limit: {limit}") for limit in (1, 99)
    )
    assert small.limits[0].cell == large.limits[0].cell


def test_the_order_of_a_scope_means_nothing() -> None:
    cells = {
        shop(
            scope="[model, region]",
            limits=f"[{{id: j, kind: slots, limit: 1, scope: [{scope}], refuse: no}}]",
            refusals="{no: {http: 429, message: No.}}",
        )
        .limits[0]
        .cell
        for scope in ("model, region", "region, model")
    }
    assert len(cells) == 1


def test_a_shape_that_is_wrong_in_several_places_is_reported_whole() -> None:
    lines = rejection("policy: 7\nplans: []\nlimits: [{id: x, kind: window}, 5]\nextra: 1\n")
    assert [line.split(" ", 2)[1] for line in lines] == [
        "policy:", "'tenant'", "'actions'", "plans:", "limits[0]:", "limits[0]:", "limits[0]:", "limits[0]:",
        "limits[1]:", "extra:",
    ]  # fmt: skip


def test_a_limits_posture_is_that_of_its_kind_unless_it_says_otherwise() -> None:
    limits = with_limits(
        "id: a, kind: window, meter: requests, window: 1m, limit: 3",
        "id: b, kind: slots, limit: 3",
        "id: c, kind: quota, meter: credits, limit: 3",
        "id: d, kind: balance, meter: credits",
        "id: e, kind: window, meter: requests, window: 1m, limit: 3, posture: closed",
        "id: f, kind: quota, meter: credits, limit: 3, posture: open",
    ).limits
    assert [limit.id for limit in limits if limit.is_closed] == ["c", "d", "e"]
