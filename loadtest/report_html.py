"""The report as one page that needs nothing else: no scripts, no other files."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Final

from loadtest import svg
from loadtest.recorder import RESERVE
from loadtest.report import Report
from loadtest.report_text import columns, outcome_rows, shown_ms, verdict
from loadtest.totals import Moment

MOST_POINTS: Final = 600
MOST_FINDINGS: Final = 50
_STYLE: Final = Path(__file__).with_name("report.css")


def page(report: Report) -> str:
    """The page's HTML."""
    style = _STYLE.read_text(encoding="utf-8")
    body = [
        _head(report),
        _tiles(report),
        _notes(report),
        _plots(report),
        _latencies(report),
        _audit(report),
        _facts(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Load on {escape(report.plan.target.address)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    mood = "good" if report.audit is not None and report.audit.clean else "bad" if report.plan.audit else "none"
    facts = report.facts()
    under = f"{facts['load']} · {facts['tenants']} · {facts['measured']} · {report.started_at}"
    return (
        f"<header><h1>Load on {escape(report.plan.target.address)}</h1><p>{escape(under)}</p>"
        f'<p class="verdict {mood}">{escape(verdict(report))}</p></header>'
    )


def _tiles(report: Report) -> str:
    counts = report.counts
    decided = report.latencies.get(RESERVE)
    figures = [("decisions / s", f"{report.decisions_per_s:,.0f}")]
    if decided:
        figures += [
            ("p50", f"{shown_ms(decided.p50_ms)} ms"),
            ("p99", f"{shown_ms(decided.p99_ms)} ms"),
            ("p99.9", f"{shown_ms(decided.p99_9_ms)} ms"),
        ]
    share = counts.refused.total() / counts.decisions if counts.decisions else 0.0
    figures += [("refused", f"{share:.1%}"), ("errors", f"{counts.errors.total():,}")]
    if report.audit is not None and not report.audit.failure:
        figures.append(("units off", f"{report.audit.units_off:,}"))
    tiles = [f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures]
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _notes(report: Report) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)


def _plots(report: Report) -> str:
    moments = thinned(report.moments)
    parts = [_figure("Outcomes", "number of operations", [], _outcome_bars(report))]
    if report.latencies:
        parts.insert(0, _percentile_plot(report))
    if moments:
        parts[1:1] = [_throughput_plot(moments), _latency_plot(moments)]
    return f'<section class="plots">{"".join(parts)}</section>'


def _percentile_plot(report: Report) -> str:
    slowest = max(latency.max_ms for latency in report.latencies.values())
    most = max(3, min(6, max(math.ceil(math.log10(latency.count)) for latency in report.latencies.values())))
    curves = [list(latency.curve) for latency in report.latencies.values()]
    plot = svg.lines("Latency by percentile", svg.nines(most), svg.linear(slowest), curves)
    return _figure("Latency by percentile", "ms", list(report.latencies), plot)


def _throughput_plot(moments: Sequence[Moment]) -> str:
    highest = max(moment.granted + moment.refused + moment.failed for moment in moments)
    series = [
        [(moment.middle_s, moment.granted) for moment in moments],
        [(moment.middle_s, moment.refused) for moment in moments],
        [(moment.middle_s, moment.failed) for moment in moments],
    ]
    plot = svg.stacked("Throughput over time", _time(moments), svg.linear(highest), series)
    return _figure("Throughput", "per second", ["granted", "refused", "errors"], plot)


def _latency_plot(moments: Sequence[Moment]) -> str:
    answered = [moment for moment in moments if moment.p50_ms]
    series = [
        [(moment.middle_s, moment.p50_ms or 0.0) for moment in answered],
        [(moment.middle_s, moment.p99_ms or 0.0) for moment in answered],
        [(moment.middle_s, moment.max_ms or 0.0) for moment in answered],
    ]
    values = [value for points in series for _, value in points] or [1.0]
    plot = svg.lines("Latency over time", _time(moments), svg.logarithmic(min(values), max(values)), series)
    return _figure(f"Latency of {RESERVE}", "ms", ["p50", "p99", "max"], plot)


def _outcome_bars(report: Report) -> str:
    colours = {"refused": 2, "error": 3}
    rows = [(name, number, colours.get(name.partition(":")[0], 1)) for name, number in outcome_rows(report) if number]
    return svg.bars("Outcomes", rows)


def _figure(title: str, unit: str, legend: Sequence[str], plot: str) -> str:
    keys = "".join(f'<li class="s{number}">{escape(name)}</li>' for number, name in enumerate(legend, 1))
    caption = f"<figcaption><h2>{escape(title)} <small>{escape(unit)}</small></h2><ul>{keys}</ul></figcaption>"
    return f"<figure>{caption}{plot}</figure>"


def _latencies(report: Report) -> str:
    heading = ["method", "answers", "mean", "p50", "p90", "p99", "p99.9", "max"]
    rows = [
        [rpc, f"{latency.count:,}", *(shown_ms(value) for value in columns(latency))]
        for rpc, latency in report.latencies.items()
    ]
    return f"<section><h2>Latency <small>ms</small></h2>{_table(heading, rows)}</section>" if rows else ""


def _audit(report: Report) -> str:
    if report.audit is None or not report.audit.findings:
        return ""
    found = report.audit.findings
    rows = [[finding.tenant, finding.what, finding.callers, finding.server, f"{finding.off:,}"] for finding in found]
    more = f"<p>and {len(found) - MOST_FINDINGS:,} more</p>" if len(found) > MOST_FINDINGS else ""
    table = _table(["tenant", "figure", "callers", "server", "units off"], rows[:MOST_FINDINGS])
    return f"<section><h2>Where the server and its callers differ</h2>{table}{more}</section>"


def _facts(report: Report) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts().items())
    return f"<section><h2>What was run</h2><dl>{rows}</dl></section>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _time(moments: Sequence[Moment]) -> svg.Axis:
    return svg.linear(moments[-1].at_s + 1, most_ticks=8, unit=" s")


def thinned(moments: Sequence[Moment]) -> list[Moment]:
    """At most 600 moments: neighbours become one, with their mean rates and worst latencies."""
    step = math.ceil(len(moments) / MOST_POINTS)
    if step <= 1:
        return list(moments)
    return [_merged(moments[start : start + step]) for start in range(0, len(moments), step)]


def _merged(moments: Sequence[Moment]) -> Moment:
    return Moment(
        at_s=moments[0].at_s,
        granted=fmean(moment.granted for moment in moments),
        refused=fmean(moment.refused for moment in moments),
        failed=fmean(moment.failed for moment in moments),
        p50_ms=max((moment.p50_ms for moment in moments if moment.p50_ms is not None), default=None),
        p99_ms=max((moment.p99_ms for moment in moments if moment.p99_ms is not None), default=None),
        max_ms=max((moment.max_ms for moment in moments if moment.max_ms is not None), default=None),
    )
