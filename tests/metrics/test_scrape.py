"""What Prometheus reads: the numbers of all processes as one."""

import re
from pathlib import Path

from server.metrics.book import Book, book_of
from server.metrics.catalogue import ALL
from server.metrics.metrics import Metrics
from server.metrics.scrape import listener
from tests.metrics.scraping import Figures, scraped


def processes(folder: Path, count: int) -> list[Metrics]:
    return [Metrics(Book(book_of(folder, number))) for number in range(count)]


async def shown(folder: Path) -> Figures:
    async with listener(folder, "127.0.0.1:0") as address:
        return scraped(address)


async def test_what_several_processes_counted_is_added_up(tmp_path: Path) -> None:
    one, other = processes(tmp_path, 2)
    one.decisions.add("lab", "granted", "")
    other.decisions.add("lab", "granted", "", by=4)
    other.decisions.add("lab", "refused", "RATE")
    found = await shown(tmp_path)
    assert found["holdgate_decisions_total"] == {("lab", "granted", ""): 5, ("lab", "refused", "RATE"): 1}


async def test_a_gauge_is_the_sum_the_most_or_the_least_of_the_processes(tmp_path: Path) -> None:
    one, other = processes(tmp_path, 2)
    for metrics, in_flight, holds, up in ((one, 3, 10, 1), (other, 4, 9, 0)):
        metrics.in_flight.set(in_flight)
        metrics.holds_active.set(holds, "lab")
        metrics.store_up.set(up)
    found = await shown(tmp_path)
    assert found["holdgate_calls_in_flight"] == {(): 7}
    assert found["holdgate_holds_active"] == {("lab",): 10}
    assert found["holdgate_store_up"] == {(): 0}


async def test_a_histogram_has_the_durations_of_all_processes(tmp_path: Path) -> None:
    for metrics, seconds in zip(processes(tmp_path, 2), (0.0015, 3.0), strict=True):
        metrics.call_time.took(seconds, "Settle")
    found = await shown(tmp_path)
    buckets = found["holdgate_call_seconds_bucket"]
    assert buckets["Settle", "0.001"] == 0
    assert buckets["Settle", "0.002"] == 1
    assert buckets["Settle", "5.0"] == buckets["Settle", "+Inf"] == 2
    assert found["holdgate_call_seconds_count"] == {("Settle",): 2}
    assert found["holdgate_call_seconds_sum"] == {("Settle",): 3.0015}


def test_names_follow_the_rules_of_prometheus() -> None:
    assert len({metric.shown for metric in ALL}) == len(ALL)
    for metric in ALL:
        assert re.fullmatch(r"holdgate_[a-z]+(_[a-z]+)*", metric.shown)
        assert metric.shown.endswith("_total") == metric.counts
        assert metric.about.endswith(".")


def test_no_label_has_values_from_callers() -> None:
    assert {label for metric in ALL for label in metric.labels} == {
        *("policy", "limit", "meter", "version"),  # from policies
        *("outcome", "code", "direction", "how", "by", "method", "status", "script"),  # from policies and code
    }
