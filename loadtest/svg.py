"""Plots as SVG text: axes, lines, stacked areas and bars, coloured by the page's style sheet.

Series are told apart by their class, `s1`, `s2` and so on, for which the page has colours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 12, 34
_PLOT_RIGHT: Final = WIDTH - _RIGHT
_PLOT_BOTTOM: Final = HEIGHT - _BOTTOM
_BAR: Final = 30
_BAR_LABELS: Final = 250

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to 0..1; `ticks` are values with their labels."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def linear(high: float, *, most_ticks: int = 5, unit: str = "") -> Axis:
    """From 0 to the next round number above `high`."""
    step = _round_step((high or 1.0) / most_ticks)
    count = max(math.ceil((high or 1.0) / step - 1e-9), 1)
    top = step * count
    digits = max(0, -math.floor(math.log10(step)))
    ticks = [(step * n, f"{step * n:,.{digits}f}{unit}") for n in range(count + 1)]
    return Axis(lambda value: value / top, ticks)


def logarithmic(low: float, high: float, *, unit: str = "") -> Axis:
    """Powers of ten around `low` and `high`, both above 0; with the 2s and 5s between when there are few."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    marks = (1, 2, 5) if last - first <= 2 else (1,)  # noqa: PLR2004  # more would crowd the axis
    values = [mark * 10.0**power for power in range(first, last) for mark in marks] + [10.0**last]
    return Axis(
        lambda value: (math.log10(max(value, 10.0**first)) - first) / (last - first),
        [(value, f"{value:,g}{unit}") for value in values],
    )


def nines(most: int) -> Axis:
    """Percentiles from 0 to `most` nines (3: 99.9), evenly in the number of nines; 100 is at the end."""

    def place(percentile: float) -> float:
        rest = max(1 - percentile / 100, 10.0**-most)
        return -math.log10(rest) / most

    ticks = [(0.0, "0 %")] + [(100 * (1 - 10.0**-n), f"{100 * (1 - 10.0**-n):g} %") for n in range(1, most)]
    return Axis(place, [*ticks, (100.0, "max")])


def lines(label: str, x: Axis, y: Axis, series: Sequence[Sequence[Point]]) -> str:
    """A line for each series."""
    drawn = [
        f'<polyline class="line s{number}" points="{_path(x, y, points)}"/>'
        for number, points in enumerate(series, 1)
        if points
    ]
    return _plot(label, x, y, drawn)


def stacked(label: str, x: Axis, y: Axis, series: Sequence[Sequence[Point]]) -> str:
    """Areas on top of each other; all series have the same places along the axis."""
    floor = [(at, 0.0) for at, _ in series[0]]
    drawn = []
    for number, points in enumerate(series, 1):
        top = [(at, below + value) for (at, below), (_, value) in zip(floor, points, strict=True)]
        if any(value for _, value in points):
            outline = f"{_path(x, y, top)} {_path(x, y, floor[::-1])}"
            drawn.append(f'<polygon class="area s{number}" points="{outline}"/>')
            drawn.append(f'<polyline class="line s{number}" points="{_path(x, y, top)}"/>')
        floor = top
    return _plot(label, x, y, drawn)


def bars(label: str, rows: Sequence[tuple[str, int, int]]) -> str:
    """Horizontal bars: name, number, series for its colour."""
    most = max((number for _, number, _ in rows), default=0) or 1
    height = _BAR * len(rows) + 8
    room = WIDTH - _BAR_LABELS - 90
    drawn = []
    for place, (name, number, series) in enumerate(rows):
        top = place * _BAR + 6
        width = max(room * number / most, 1.5 if number else 0)
        drawn.append(
            f'<text class="name" x="{_BAR_LABELS - 10}" y="{top + 15}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect class="bar s{series}" x="{_BAR_LABELS}" y="{top}" width="{width:.1f}" height="20" rx="3"/>'
            f'<text class="value" x="{_BAR_LABELS + width + 8:.1f}" y="{top + 15}">{number:,}</text>'
        )
    return _svg(label, height, drawn)


def _plot(label: str, x: Axis, y: Axis, drawn: Sequence[str]) -> str:
    grid = []
    for value, text in y.ticks:
        at = _down(y, value)
        grid.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_PLOT_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    for value, text in x.ticks:
        at = _across(x, value)
        anchor = "end" if at > _PLOT_RIGHT - 20 else "middle"  # else the label would be cut
        grid.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_PLOT_BOTTOM}" y2="{_PLOT_BOTTOM + 5}"/>'
            f'<text class="tick" x="{at:.1f}" y="{_PLOT_BOTTOM + 19}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    return _svg(label, HEIGHT, [*grid, *drawn])


def _svg(label: str, height: int, drawn: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(drawn)}</svg>'


def _path(x: Axis, y: Axis, points: Sequence[Point]) -> str:
    return " ".join(f"{_across(x, at):.1f},{_down(y, value):.1f}" for at, value in points)


def _across(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (_PLOT_RIGHT - _LEFT)


def _down(axis: Axis, value: float) -> float:
    return _PLOT_BOTTOM - axis.place(value) * (_PLOT_BOTTOM - _TOP)


def _short(name: str) -> str:
    longest = 38
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(mark * power for mark in (1, 2, 5, 10) if mark * power >= step * (1 - 1e-9))
