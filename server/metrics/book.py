"""The numbers themselves: whole numbers in memory that several processes can read, each written by one of them.

A book is two files of a folder: `N.cells` has the numbers, eight bytes each, and `N.names` a line for each series that
says which cells are its own. A process that takes the place of one that was killed goes on in its book, so nothing that
was counted is lost and no counter falls.
"""

import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import orjson

from server.metrics.catalogue import ALL, SERIES_LOST, Metric

CELLS: Final = 16_384
"""Numbers of one process: room for a few hundred policies' limits and codes."""

_BYTES: Final = 8
_LOST: Final = CELLS - max(metric.places for metric in ALL)
"""Where numbers go that nobody reads."""

_US_PER_S: Final = 1_000_000

Labels: TypeAlias = tuple[str, ...]


class Series(NamedTuple):
    """One metric with one set of labels, and its numbers."""

    metric: Metric
    labels: Labels
    numbers: tuple[int, ...]


class Book:
    """One process's numbers: in files that begin with `path`, or in memory that nobody else reads."""

    def __init__(self, path: Path | None = None) -> None:
        memory = bytearray(CELLS * _BYTES) if path is None else _mapped(path.with_suffix(".cells"))
        self.cells: Final = memoryview(memory).cast("q")
        self._names = path and path.with_suffix(".names")
        if self._names is not None:
            self._names.touch()
        self._places: dict[str, dict[Labels, int]] = {metric.name: {} for metric in ALL}
        self._next = SERIES_LOST.places
        self._places[SERIES_LOST.name][()] = 0
        for metric, labels, place in _entries(path) if path else ():
            self._places[metric.name][labels] = place
            self._next = max(self._next, place + metric.places)
            if not metric.counts and not metric.bounds_us:
                self.cells[place] = 0

    def places(self, metric: Metric) -> dict[Labels, int]:
        """Where the metric's series are, by labels."""
        return self._places[metric.name]

    def place(self, metric: Metric, labels: Labels) -> int:
        """Where a series is, which may be new; of one that finds no room, the number goes nowhere."""
        places = self._places[metric.name]
        if (place := places.get(labels)) is not None:
            return place
        if self._next + metric.places > _LOST:
            self.cells[0] += 1
            return _LOST
        place = places[labels] = self._next
        self._next += metric.places
        if self._names is not None:
            with self._names.open("ab") as file:
                file.write(orjson.dumps([metric.name, labels, place]) + b"\n")
        return place

    def series(self) -> Iterator[Series]:
        """All that was ever counted."""
        for metric in ALL:
            for labels, place in self._places[metric.name].items():
                yield Series(metric, labels, tuple(self.cells[place : place + metric.places]))


class Counter:
    """A metric that counts."""

    def __init__(self, book: Book, metric: Metric) -> None:
        self._book, self._metric = book, metric
        self._cells = book.cells
        self._places: Mapping[Labels, int] = book.places(metric)

    def add(self, *labels: str, by: int = 1) -> None:
        """Counts `by` more."""
        place = self._places.get(labels)
        self._cells[self._book.place(self._metric, labels) if place is None else place] += by

    def one_more(self, *labels: str) -> Callable[[], None]:
        """Counts one, each time that it is called; quicker than `add`. The series is there from now on."""
        cells, place = self._cells, self._book.place(self._metric, labels)

        def count() -> None:
            cells[place] += 1

        return count


class Gauge(Counter):
    """A metric that is what it is now."""

    def set(self, value: int, *labels: str) -> None:
        """It is this now."""
        self._cells[self._book.place(self._metric, labels)] = value

    def clear(self) -> None:
        """All its series are 0."""
        for place in self._places.values():
            self._cells[place] = 0


class Histogram:
    """A metric of durations."""

    def __init__(self, book: Book, metric: Metric) -> None:
        self._book, self._metric = book, metric
        self._cells = book.cells

    def took(self, seconds: float, *labels: str) -> None:
        """Something took this long."""
        self.timer(*labels)(seconds)

    def timer(self, *labels: str) -> Callable[[float], None]:
        """Counts something that took so many seconds, each time that it is called; quicker than `took`. The series is
        there from now on.
        """
        cells, place, bounds = self._cells, self._book.place(self._metric, labels), self._metric.bounds_us
        last = place + len(bounds) + 1

        def took(seconds: float) -> None:
            took_us = int(seconds * _US_PER_S)
            cells[place + bisect_left(bounds, took_us)] += 1
            cells[last] += took_us

        return took


def book_of(folder: Path, number: int) -> Path:
    """Where the process of this number keeps its book."""
    return folder / str(number)


def read_books(folder: Path) -> Iterator[Series]:
    """All series of all books in the folder; of two processes, the same one twice."""
    for path in sorted(folder.glob("*.names")):
        entries = list(_entries(path))
        data = path.with_suffix(".cells").read_bytes()
        cells = memoryview(data).cast("q")
        yield Series(SERIES_LOST, (), (cells[0],))
        for metric, labels, place in entries:
            yield Series(metric, labels, tuple(cells[place : place + metric.places]))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("a+b") as file:
        file.truncate(CELLS * _BYTES)
        return mmap.mmap(file.fileno(), CELLS * _BYTES)


def _entries(path: Path) -> Iterator[tuple[Metric, Labels, int]]:
    """The series that a book's names tell of."""
    known = {metric.name: metric for metric in ALL}
    for line in path.with_suffix(".names").read_bytes().splitlines():
        name, labels, place = orjson.loads(line)
        yield known[name], tuple(labels), place
