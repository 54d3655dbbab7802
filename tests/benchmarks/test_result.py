"""What a run comes to: the line of JSON, and the page."""

import json

import pytest

from benchmarks import cli
from benchmarks.audited import Audited
from benchmarks.budgets import BUDGETS
from benchmarks.growth import Growth, Point
from benchmarks.ingest import Ingest
from benchmarks.measured import Measured
from benchmarks.medians import Compared
from benchmarks.memory import Bytes, Memory
from benchmarks.page import page
from benchmarks.redis_cost import RedisCost
from benchmarks.server_cost import ServerCost, WayCost
from benchmarks.standard import WrongAnswer
from benchmarks.throughput import Half, Rate, Throughput
from benchmarks.workers import Workers

KEYS = [
    "server_cpu_ratio_unary",
    "server_cpu_ratio_batch32",
    "server_cpu_ratio_stream32",
    "redis_cpu_ratio",
    "redis_cpu_ratio_settle",
    "server_cpu_us_unary",
    "redis_cpu_us",
    "decisions_per_s",
    "p50_ms",
    "p99_ms_half_peak",
    "tenant_bytes",
    "hold_bytes",
    "tombstone_bytes",
    "growth_ratio",
    "workers_ratio",
    "audit_units_off",
    "samples_per_s",
    "sample_units_off",
]


def sample() -> Measured:
    def way(ratio: float) -> WayCost:
        return WayCost(Compared(ratio * 100, 100, ratio), Compared(1, 100, 0.01))

    rate = Rate(decisions_per_s=5000.4, p50_ms=4.5678, p99_ms=9, server_us=100, store_us=50)
    return Measured(
        server=ServerCost(way(0.2), way(0.1), way(0.15), Compared(20, 100, 0.2), 290),
        redis=RedisCost(Compared(24.04, 3, 8.0123), Compared(20, 3, 6.5)),
        memory=Memory(Bytes(800, 900), Bytes(500, 510), Bytes(380, 390.4), Bytes(190, 180)),
        growth=Growth(*([Point(100, 25, 1), Point(10_000, 25 * ratio, ratio)] for ratio in (1.2, 1.1, 1.24))),
        throughput=Throughput(rate, Half(2500, 1.5, 2.3456, 0.07), rate),
        workers=Workers(rate, rate, 1.8, 1.1),
        audited=Audited(1000, 100, 700, 0),
        ingest=Ingest(20_000, 12345.6, 30, 8, 0),
    )


def test_the_line_has_every_figure_in_its_order() -> None:
    assert list(sample().figures()) == KEYS


def test_each_figure_is_the_one_that_its_name_says() -> None:
    assert list(sample().figures().values()) == [
        *(0.2, 0.1, 0.15, 8.012, 6.5),
        *(20.0, 24.0, 5000, 4.568, 2.346),
        *(900, 390, 190, 1.24, 1.8, 0),
        *(12346, 0),
    ]


def test_every_budget_is_about_a_figure_of_the_line() -> None:
    assert {budget.figure for budget in BUDGETS} <= set(KEYS)


def test_the_page_names_every_budget_with_its_verdict() -> None:
    text = page(sample())

    for budget in BUDGETS:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {budget.what} ")]
        assert budget.verdict(sample().figures()[budget.figure]) in row


def test_a_run_ends_with_exactly_one_line_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = sample()
    sections = {name: getattr(measured, name) for name in cli.SECTIONS}
    monkeypatch.setattr(cli, "_run", lambda *_: sections)

    assert cli.main(["--quick"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("bench: ")] == lines[-1:]
    assert list(json.loads(lines[-1].removeprefix("bench: "))) == KEYS


def test_a_wrong_answer_ends_the_run_without_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise WrongAnswer("not granted by 5 limits")

    monkeypatch.setattr(cli, "_run", wrong)

    assert cli.main(["--quick"]) == cli.FAILED

    told = capsys.readouterr()
    assert told.out == ""
    assert "not granted by 5 limits" in told.err
