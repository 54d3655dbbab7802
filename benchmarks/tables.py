"""What was measured as tables, each with a word on what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.audited import Audited
from benchmarks.budgets import BUDGETS
from benchmarks.envoys import Deadline
from benchmarks.growth import Growth
from benchmarks.ingest import Ingest
from benchmarks.medians import Compared
from benchmarks.memory import Bytes, Memory
from benchmarks.overload import Overload
from benchmarks.queues import Queues
from benchmarks.redis_cost import RedisCost
from benchmarks.server_cost import ServerCost
from benchmarks.throughput import Rate, Throughput
from benchmarks.workers import Workers


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; the first column is text, the others are figures."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """As Markdown, aligned so that it reads well on a terminal too."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
        return "\n".join(_line(line, widths) for line in (self.headings, rule, *self.rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in others) + " |"


def budgets(figures: Mapping[str, float]) -> Table:
    """Every budget, and whether it is kept."""
    rows = [
        (b.what, b.text, f"{figures[b.figure]:,}{b.unit}", b.verdict(figures[b.figure]), b.yardstick) for b in BUDGETS
    ]
    return Table(("figure", "budget", "measured", "verdict", "yardstick, in the same run"), rows)


def server(found: ServerCost) -> Table:
    """CPU of the server."""
    rows = [
        _compared(f"{operation}, {way}", cost)
        for way, both in (("unary", found.unary), ("batch of 32", found.batch), ("stream", found.stream))
        for operation, cost in (("decision", both.reserve), ("settle", both.settle))
    ]
    rows.append(_compared("an empty call, on the same transport", found.transport))
    return Table(("operation", "CPU µs", "empty call of grpc.aio, CPU µs", "ratio"), rows)


def redis(found: RedisCost) -> Table:
    """CPU of the store."""
    rows = [_compared("decision", found.reserve), _compared("settle", found.settle)]
    return Table(("operation", "CPU µs", "constant script, CPU µs", "ratio"), rows)


def memory(found: Memory) -> Table:
    """Memory in the store."""
    rows = [
        _bytes("idle tenant", found.tenant),
        _bytes("active hold, of four of its tenant", found.hold),
        _bytes("active hold, the only one of its tenant", found.only_hold),
        _bytes("tombstone", found.tombstone),
    ]
    return Table(("of one", "keys, bytes", "growth, bytes"), rows)


def growth(found: Growth) -> Table:
    """The curves, side by side."""
    rows = [
        (f"{points[0].number:,}", *(text for point in points for text in (f"{point.us:.1f}", f"{point.ratio:.2f}")))
        for points in zip(found.tenants, found.tenants_again, found.holds, strict=True)
    ]
    headings = (
        "in the store",
        "tenants, µs",
        "ratio",
        "tenants again, µs",
        "ratio",
        "holds of one tenant, µs",
        "ratio",
    )
    return Table(headings, rows)


def throughput(found: Throughput) -> Table:
    """Figures of the clock."""
    latencies = (found.half.p50_ms, found.half.p99_ms)
    half = ("half of the peak", f"{found.half.rate:,.0f}", *(f"{ms:.2f}" for ms in latencies), "", "")
    rows = [_rate("1,000 tenants", found.peak), half, _rate("one hot tenant", found.hot)]
    headings = ("load", "decisions/s", "p50 ms", "p99 ms", "server CPU µs per pair", "store CPU µs per pair")
    return Table(headings, rows)


def workers(found: Workers) -> Table:
    """One worker and two."""
    rows = [
        (name, f"{rate.decisions_per_s:,.0f}", f"{rate.server_us:.1f}", f"{number * 1e6 / rate.server_us:,.0f}")
        for name, number, rate in (("1 worker", 1, found.one), ("2 workers", 2, found.two))
    ]
    ratios = ("ratio", f"{found.clock_ratio:.2f}", "", f"{found.capacity_ratio:.2f}")
    headings = ("", "decisions/s here", "server CPU µs per pair", "decisions/s, a core each")
    return Table(headings, [*rows, ratios])


def audited(found: Audited) -> Table:
    """The load test's audit."""
    row = (f"{found.tenants:,} tenants", f"{found.decisions:,}", f"{found.figures:,}", f"{found.units_off:,}")
    return Table(("of", "decisions", "figures compared", "units off"), [row])


def ingest(found: Ingest) -> Table:
    """Samples of use."""
    row = (f"{found.samples:,} samples", f"{found.per_s:,.0f}", f"{found.server_us:.1f}", f"{found.store_us:.1f}")
    return Table(
        ("of", "samples/s", "server CPU µs per sample", "store CPU µs", "units off"), [(*row, f"{found.off:,}")]
    )


def envoy(found: Deadline) -> Table:
    """Envoy's calls to Holdgate, by its own figures."""
    share = f"{found.late / found.calls:.2%}"
    row = (f"{found.calls_per_s:,.0f} calls/s", f"{found.calls:,}", f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}")
    return Table(
        ("Envoy asks at", "calls", "p50 ms", "p99 ms", "past 20 ms", "share"), [(*row, f"{found.late:,}", share)]
    )


def queues(found: Queues) -> Table:
    """Gaps, costs by length, and what a crowd costs that waits."""
    rows = [
        (
            f"a place freed → the next one starts, {found.turns} turns",
            f"{found.gap_p50_ms:.1f}",
            f"{found.gap_p99_ms:.1f}",
        ),
        *((f"{cost.length:,} in line", f"{cost.joins_us:.1f}", f"{cost.turn_us:.1f}") for cost in found.costs),
        (f"{found.crowd:,} calls that wait", f"{found.server_share:.1%}", f"{found.store_share:.1%}"),
    ]
    return Table(("of", "p50 ms · joins, store µs · server's core", "p99 ms · turn, store µs · store's core"), rows)


def overload(found: Sequence[Overload]) -> Table:
    """Twice the peak, beside the peak."""
    rows = [
        (
            one.transport,
            *(f"{rate:,.0f}" for rate in (one.peak_per_s, one.asked_per_s, one.good_per_s)),
            f"{one.kept:.0%}",
            *(f"{ms:.1f}" for ms in (one.peak_p99_ms, one.good_p99_ms)),
            f"{one.turned_away:.0%}",
        )
        for one in found
    ]
    headings = ("transport", "peak/s", "asked/s", "good/s", "kept", "p99 ms at the peak", "p99 ms of the good")
    return Table((*headings, "turned away"), rows)


def _compared(name: str, found: Compared) -> tuple[str, str, str, str]:
    return name, f"{found.subject:.1f}", f"{found.yardstick:.2f}", f"{found.ratio:.3f}"


def _bytes(name: str, found: Bytes) -> tuple[str, str, str]:
    return name, f"{found.of_keys:,.0f}", f"{found.grown:,.0f}"


def _rate(name: str, rate: Rate) -> tuple[str, ...]:
    figures = (rate.p50_ms, rate.p99_ms)
    costs = (rate.server_us, rate.store_us)
    return name, f"{rate.decisions_per_s:,.0f}", *(f"{ms:.2f}" for ms in figures), *(f"{us:.1f}" for us in costs)
