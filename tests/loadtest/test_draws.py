"""What is drawn: amounts, times, tenants, endings and whole requests."""

from collections import Counter
from random import Random

import pytest

from loadtest.mix import Ending, Ends
from loadtest.requests import Draw
from loadtest.spreads import Share, Units, Wait, seconds
from loadtest.tenants import picker
from tests.loadtest.plans import plan


def seeded() -> Random:
    return Random(1)  # noqa: S311  # draws that a test can repeat


@pytest.mark.parametrize(
    ("text", "low", "high"), [(5, 5, 5), ("5", 5, 5), ("5..10", 5, 10), ("1_000..2_000", 1000, 2000), ("0", 0, 0)]
)
def test_amounts_are_drawn_from_their_whole_range(text: object, low: int, high: int) -> None:
    units = Units.parse(text)

    chance = seeded()
    drawn = {units.draw(chance) for _ in range(2000)}

    assert (min(drawn), max(drawn)) == (low, high) if high - low < 100 else min(drawn) >= low


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "10..5", "9007199254740992", "1..", None, True, [1]])
def test_what_is_no_amount_is_named(text: object) -> None:
    with pytest.raises(ValueError, match="amount"):
        Units.parse(text)


@pytest.mark.parametrize("text", ["2", "-0.1", "0.9..0.1", "all", "nan"])
def test_what_is_no_share_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        Share.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("50ms", 0.05), ("2s", 2), ("1.5m", 90), ("1h", 3600), ("3", 3), (" 4s ", 4)]
)
def test_times_are_written_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1d", "2s..1s", "mean", "mean x"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        Wait.parse(text)


def test_holds_last_as_long_as_their_spread_says() -> None:
    chance = seeded()

    between = [Wait.parse("50ms..150ms").draw(chance) for _ in range(2000)]
    about = [Wait.parse("mean 100ms").draw(chance) for _ in range(2000)]

    assert 0.05 <= min(between) < 0.06
    assert 0.14 < max(between) <= 0.15
    assert sum(about) / len(about) == pytest.approx(0.1, rel=0.1)
    assert max(about) > 0.3


def shares(spread: str, tenants: int) -> dict[int, float]:
    """The share of each tenant among many draws."""
    pick, chance, draws = picker(spread, tenants), seeded(), 50_000
    return {tenant: number / draws for tenant, number in Counter(pick(chance) for _ in range(draws)).items()}


def test_uniform_tenants_are_all_alike() -> None:
    found = shares("uniform", 10)

    assert sorted(found) == list(range(10))
    assert all(share == pytest.approx(0.1, rel=0.1) for share in found.values())


def test_a_zipf_tenant_of_rank_n_gets_one_nth_to_the_power() -> None:
    found = shares("zipf:1.2", 1000)
    total = sum(rank**-1.2 for rank in range(1, 1001))

    for rank in (1, 2, 5, 10):
        assert found[rank - 1] == pytest.approx(rank**-1.2 / total, rel=0.15)
    assert max(found) <= 999


def test_a_hot_tenant_gets_its_share_and_the_others_the_rest_evenly() -> None:
    found = shares("hot:0.6", 5)

    assert found[0] == pytest.approx(0.6, rel=0.05)
    assert all(found[tenant] == pytest.approx(0.1, rel=0.1) for tenant in range(1, 5))
    assert shares("hot", 1) == {0: 1}


@pytest.mark.parametrize("spread", ["", "even", "uniform:1", "zipf:x", "zipf:-1", "hot:1.1", "hot:nan"])
def test_what_is_no_spread_is_named(spread: str) -> None:
    with pytest.raises(ValueError, match=r"expected a number|is no spread"):
        picker(spread, 10)


def test_holds_end_in_the_ratio_of_the_weights() -> None:
    ends, chance = Ends(settle=6, release=3, abandon=1), seeded()

    found = Counter(ends.draw(chance) for _ in range(10_000))

    assert found[Ending.SETTLE] / 10_000 == pytest.approx(0.6, abs=0.02)
    assert found[Ending.RELEASE] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert found[Ending.ABANDON] / 10_000 == pytest.approx(0.1, abs=0.02)


def test_a_seed_draws_the_same_requests_again_under_new_names() -> None:
    first, second = (plan("--tenants", "50", "--hold", "1ms..9ms", "--repeats", "0.5") for _ in range(2))
    draws = Draw(first, 0), Draw(second, 0)

    pairs = [(draws[0].next(), draws[1].next()) for _ in range(100)]

    for one, other in pairs:
        assert (one.key, one.ending, one.hold_s, one.repeats) == (other.key, other.ending, other.hold_s, other.repeats)
        assert one.request.amounts == other.request.amounts
        assert one.request.request_id != other.request.request_id
        assert one.request.tenant != other.request.tenant


def test_no_two_requests_of_a_run_share_an_id() -> None:
    made = plan("--processes", "2")

    ids = [draw.next().request.request_id for draw in (Draw(made, 0), Draw(made, 1)) for _ in range(500)]

    assert len(set(ids)) == 1000
    assert all(name.startswith(made.run) for name in ids)
