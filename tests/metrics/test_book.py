"""Numbers that outlive the process that counted them."""

from pathlib import Path

from server.metrics import book as books
from server.metrics.book import Book, book_of, read_books
from server.metrics.catalogue import CALL_TIME, DECISIONS, IN_FLIGHT, SERIES_LOST, STORE_UP
from server.metrics.metrics import Metrics


def numbers(folder: Path, name: str) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    return [(labels, values) for metric, labels, values in read_books(folder) if metric.name == name]


def test_another_process_reads_what_was_counted(tmp_path: Path) -> None:
    metrics = Metrics(Book(book_of(tmp_path, 0)))
    metrics.decisions.add("lab", "granted", "")
    metrics.decisions.add("lab", "granted", "", by=2)
    metrics.decisions.add("lab", "refused", "RATE")
    assert numbers(tmp_path, DECISIONS.name) == [(("lab", "granted", ""), (3,)), (("lab", "refused", "RATE"), (1,))]


def test_who_takes_the_place_of_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    Metrics(Book(book_of(tmp_path, 0))).decisions.add("lab", "granted", "")
    after = Metrics(Book(book_of(tmp_path, 0)))
    after.decisions.add("lab", "granted", "")
    after.decisions.add("lab", "replayed", "")
    assert numbers(tmp_path, DECISIONS.name) == [(("lab", "granted", ""), (2,)), (("lab", "replayed", ""), (1,))]


def test_what_a_killed_process_was_is_not_taken_for_what_the_next_one_is(tmp_path: Path) -> None:
    before = Metrics(Book(book_of(tmp_path, 0)))
    before.in_flight.set(7)
    before.store_up.set(1)
    Metrics(Book(book_of(tmp_path, 0)))
    assert numbers(tmp_path, IN_FLIGHT.name) == [((), (0,))]
    assert numbers(tmp_path, STORE_UP.name) == [((), (0,))]


def test_a_duration_is_counted_below_the_first_bound_that_is_not_shorter() -> None:
    metrics = Metrics()
    bounds_s = [bound / 1_000_000 for bound in CALL_TIME.bounds_us]
    for seconds in (0.0, bounds_s[0], bounds_s[0] + 0.000001, bounds_s[-1] + 1):
        metrics.call_time.took(seconds, "Settle")
    ((_, _, (first, second, *between, beyond, total_us)),) = (s for s in metrics.book.series() if s.metric is CALL_TIME)
    assert (first, second, between, beyond) == (2, 1, [0] * len(between), 1)
    assert total_us == sum(round(s * 1_000_000) for s in (bounds_s[0], bounds_s[0] + 0.000001, bounds_s[-1] + 1))


def test_series_beyond_the_room_are_told_of_and_harm_no_other(tmp_path: Path) -> None:
    metrics = Metrics(Book(book_of(tmp_path, 0)))
    metrics.decisions.add("first", "granted", "")
    for number in range(books.CELLS):
        metrics.decisions.add(f"p-{number}", "granted", "")
    metrics.call_time.took(0.1, "Settle")
    ((_, (lost,)),) = numbers(tmp_path, SERIES_LOST.name)
    kept = numbers(tmp_path, DECISIONS.name)
    assert lost == 2 + books.CELLS - len(kept)
    assert {values for _, values in kept} == {(1,)}
    assert numbers(tmp_path, CALL_TIME.name) == []
