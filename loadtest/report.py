"""What a run came to, ready to be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from loadtest.audit import Audit
from loadtest.plan import Closed, LoadPlan, Open
from loadtest.recorder import RESERVE, Counts
from loadtest.totals import Moment, Totals, milliseconds

FORMAT: Final = 1
"""Version of the JSON document; grows when a key changes its meaning."""

_CURVE_STEPS_PER_DECADE: Final = 12


@dataclass(frozen=True, slots=True)
class Latency:
    """One method's latencies in milliseconds. `curve` has (percentile, ms) from the fastest to the slowest."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    curve: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `busy` is the share of a core that the busiest process of the load took; `notes` are sentences about
    what a reader must know to trust the figures.
    """

    plan: LoadPlan
    started_at: str
    elapsed_s: float
    busy: float
    counts: Counts
    latencies: Mapping[str, Latency]
    moments: Sequence[Moment]
    audit: Audit | None
    notes: Sequence[str]

    @property
    def decisions_per_s(self) -> float:
        """Grants and refusals per second."""
        return self.counts.decisions / self.elapsed_s if self.elapsed_s else 0.0

    def facts(self) -> dict[str, str]:
        """What was run, by name, for people."""
        plan, pace = self.plan, self.plan.pace
        return {
            "target": plan.target.address,
            "policy": plan.mix.policy or "the server's only one",
            "load": _pace(pace),
            "processes": f"{plan.processes}, {plan.connections} connections each, via {plan.via}",
            "tenants": f"{plan.tenants:,} tenants, {plan.spread}",
            "mix": ", ".join(f"{entry.action} ({entry.weight:g})" for entry in plan.mix.entries),
            "measured": f"{self.elapsed_s:.1f} s after {plan.warm_up_s:g} s of warm-up",
            "load's own cost": f"{self.busy:.0%} of a core by the busiest process",
            "run": f"{plan.run}, seed {plan.seed}",
        }

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        counts, audit = self.counts, self.audit
        decided = self.latencies.get(RESERVE)
        return {
            "format": FORMAT,
            "started_at": self.started_at,
            "facts": self.facts(),
            "elapsed_s": self.elapsed_s,
            "busy": self.busy,
            "decisions": counts.decisions,
            "decisions_per_s": self.decisions_per_s,
            "p50_ms": decided.p50_ms if decided else None,
            "p99_ms": decided.p99_ms if decided else None,
            "audit_units_off": audit.units_off if audit and not audit.failure else None,
            "outcomes": {
                "granted": counts.granted,
                "refused": dict(counts.refused),
                "settled": counts.settled,
                "released": counts.released,
                "abandoned": counts.abandoned,
                "replays": counts.replays,
                "errors": {f"{rpc} {status}": number for (rpc, status), number in counts.errors.items()},
            },
            "latencies": {rpc: asdict(latency) for rpc, latency in self.latencies.items()},
            "seconds": [moment._asdict() for moment in self.moments],
            "audit": {**asdict(audit), "findings": [f._asdict() for f in audit.findings]} if audit else None,
            "notes": list(self.notes),
        }


def make_report(
    plan: LoadPlan, totals: Totals, *, started_at: str, audit: Audit | None, notes: Sequence[str]
) -> Report:
    """The report of a run that has ended."""
    return Report(
        plan=plan,
        started_at=started_at,
        elapsed_s=totals.elapsed_s,
        busy=totals.busy,
        counts=totals.counts,
        latencies={rpc: _latency(taken) for rpc, taken in totals.latencies.items() if taken.total_count},
        moments=totals.moments(),
        audit=audit,
        notes=notes,
    )


def _pace(pace: Closed | Open) -> str:
    if isinstance(pace, Closed):
        return f"closed loop, {pace.callers:,} callers"
    return f"open loop, {pace.rate:,g} decisions per second"


def _latency(taken: HdrHistogram) -> Latency:
    return Latency(
        count=taken.total_count,
        mean_ms=taken.get_mean_value() / 1000,
        p50_ms=milliseconds(taken, 50),
        p90_ms=milliseconds(taken, 90),
        p99_ms=milliseconds(taken, 99),
        p99_9_ms=milliseconds(taken, 99.9),
        max_ms=taken.get_max_value() / 1000,
        curve=[(percentile, milliseconds(taken, percentile)) for percentile in _percentiles(taken.total_count)],
    )


def _percentiles(count: int) -> list[float]:
    """From 0 towards 100, evenly in the number of nines, as far as `count` values can tell them apart."""
    found, step = [], 0
    while (rest := 10 ** (-step / _CURVE_STEPS_PER_DECADE)) * count >= 1:
        found.append(100 * (1 - rest))
        step += 1
    return [*found, 100.0]
