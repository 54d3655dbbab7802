"""The report as tables for a terminal."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.audit import Audit
from loadtest.report import Latency, Report

MOST_FINDINGS = 10
"""Differences shown; the JSON report has all of them."""


def print_report(console: Console, report: Report) -> None:
    """Prints what the run came to."""
    parts = [_facts(report), _latencies(report), _outcomes(report)]
    console.print(Group(*parts))
    for note in report.notes:
        console.print(Text(f"Note: {note}"), soft_wrap=True)
    console.print(Text(verdict(report)), soft_wrap=True)
    if report.audit is not None and report.audit.findings:
        console.print(_findings(report.audit))


def verdict(report: Report) -> str:
    """What the audit came to, in a sentence or two."""
    audit = report.audit
    if audit is None:
        return "Audit: not made."
    if audit.failure:
        return f"Audit: failed. {audit.failure}"
    compared = f"{audit.figures:,} figures of {audit.tenants:,} tenants compared"
    text = f"Audit: {audit.units_off:,} {'unit' if audit.units_off == 1 else 'units'} off; {compared}."
    if audit.uncertain:
        text += f" Leases of {audit.uncertain:,} units ended just while the server was asked; either is taken as right."
    if audit.unknown:
        text += f" {audit.unknown:,} operations have no known outcome; {audit.left_out:,} tenants are left out for it."
    return text


def _facts(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, value in report.facts().items():
        table.add_row(name, Text(value))
    return table


def _latencies(report: Report) -> RenderableType:
    table = Table(title="Latency in ms", title_justify="left")
    table.add_column("method")
    for heading in ("answers", "mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    for rpc, latency in report.latencies.items():
        table.add_row(rpc, f"{latency.count:,}", *(shown_ms(value) for value in columns(latency)))
    return table


def columns(latency: Latency) -> tuple[float, ...]:
    """The figures of a latency table, in order: mean, p50, p90, p99, p99.9, max."""
    return (
        latency.mean_ms,
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p99_9_ms,
        latency.max_ms,
    )


def outcome_rows(report: Report) -> list[tuple[str, int]]:
    """Every outcome with its number, in reading order."""
    counts = report.counts
    return [
        ("granted", counts.granted),
        *((f"refused: {code}", number) for code, number in counts.refused.most_common()),
        *((f"error: {rpc} {status}", number) for (rpc, status), number in counts.errors.most_common()),
        ("settled", counts.settled),
        ("released", counts.released),
        ("abandoned", counts.abandoned),
        ("repeats answered", counts.replays),
    ]


def shown_ms(value: float) -> str:
    """Milliseconds with as many digits as mean something."""
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"  # noqa: PLR2004  # three digits or so


def _outcomes(report: Report) -> RenderableType:
    table = Table(title=f"{report.decisions_per_s:,.0f} decisions per second", title_justify="left")
    table.add_column("outcome")
    table.add_column("number", justify="right")
    table.add_column("per second", justify="right")
    for name, number in outcome_rows(report):
        if number or name == "granted":
            rate = number / report.elapsed_s if report.elapsed_s else 0.0
            table.add_row(Text(name), f"{number:,}", f"{rate:,.1f}")
    return table


def _findings(audit: Audit) -> RenderableType:
    table = Table(title="Where the server and its callers differ", title_justify="left")
    for heading in ("tenant", "figure"):
        table.add_column(heading)
    for heading in ("callers", "server", "units off"):
        table.add_column(heading, justify="right")
    for finding in audit.findings[:MOST_FINDINGS]:
        table.add_row(finding.tenant, Text(finding.what), finding.callers, finding.server, f"{finding.off:,}")
    if (rest := len(audit.findings) - MOST_FINDINGS) > 0:
        table.add_row(f"and {rest:,} more", "", "", "", "")
    return table
