"""The alarm for the store's clock: every step, and nothing but steps."""

from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from server.jobs.store_clock import StoreClock
from server.metrics.catalogue import CLOCK_STEPS
from server.metrics.metrics import Metrics

NOON_S: Final = 1_790_000_000.0

Look = tuple[float, float, float]
"""What the store's clock is off from its first look, when it was asked, and how long the answer took."""


def told(*looks: Look) -> list[tuple[str, int]]:
    """The steps that are told of, by direction and milliseconds. The store looks at its clock half-way."""
    clock = StoreClock(Metrics())
    with capture_logs() as logged:
        for off_s, asked_s, took_s in looks:
            clock.heard(NOON_S + asked_s + took_s / 2 + off_s, asked_s, asked_s + took_s)
    events: list[Any] = [event for event in logged if event["event"] == "store.clock_stepped"]
    return [(event["direction"], event["by_ms"]) for event in events]


def steady(*looks: tuple[float, float]) -> list[Look]:
    return [(off_s, number * 0.25, took_s) for number, (off_s, took_s) in enumerate(looks)]


def test_a_steady_clock_is_never_told_of() -> None:
    assert told(*steady(*[(0, 0.001)] * 100)) == []


@pytest.mark.parametrize(("off_s", "direction"), [(5, "forward"), (-5, "back"), (0.2, "forward"), (-0.2, "back")])
def test_a_step_is_told_once_with_about_its_length(off_s: float, direction: str) -> None:
    ((way, by_ms),) = told(*steady((0, 0.001), (0, 0.001), (off_s, 0.001), (off_s, 0.001), (off_s, 0.001)))
    assert way == direction
    assert abs(by_ms - off_s * 1000) <= 2


def test_two_steps_are_two() -> None:
    assert [way for way, _ in told(*steady((0, 0), (9, 0), (9, 0), (0, 0)))] == ["forward", "back"]


@pytest.mark.parametrize("took_s", [0.3, 2.0, 60.0])
def test_a_slow_answer_is_no_step(took_s: float) -> None:
    """Nor are its neighbours, wherever in between the store looked at its clock."""
    looks = [(0.0, 0.0, 0.001), (took_s / 2, 1.0, took_s), (-took_s / 2, 70.0, took_s), (0.0, 200.0, 0.001)]
    assert told(*looks) == []


def test_a_clock_that_is_corrected_slowly_does_not_step() -> None:
    """Half a second in a quarter of an hour, as chrony does it, and with the store away for five minutes of it."""
    rate = 0.0005
    looks = [(rate * at, float(at), 0.001) for at in range(1000) if not 300 < at < 600]
    assert told(*looks) == []


def test_a_step_while_the_store_was_away_is_told() -> None:
    assert [way for way, _ in told((0, 0, 0.001), (30, 60, 0.001), (30, 61, 0.001))] == ["forward"]


def test_both_directions_are_counted_from_the_start() -> None:
    """Else the first step would be no rise for who watches the numbers."""
    metrics = Metrics()
    StoreClock(metrics)
    assert set(metrics.book.places(CLOCK_STEPS)) == {("forward",), ("back",)}
