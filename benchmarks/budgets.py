"""What each figure may be, and what is said of one that is not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Budget:
    """One figure's bound: the most that it may be, or the least where `least` is set."""

    figure: str
    what: str
    bound: float
    unit: str
    yardstick: str
    least: bool = False

    def verdict(self, value: float) -> str:
        """Whether the figure keeps the budget, or by how much it misses it."""
        if value >= self.bound if self.least else value <= self.bound:
            return "kept"
        if not self.bound:
            return f"missed by {value:,g}"
        return f"missed by {abs(value / self.bound - 1):.0%}"

    @property
    def text(self) -> str:
        """The bound, for people."""
        return f"{'≥' if self.least else '≤'} {self.bound:,g}{self.unit}"


_EMPTY_CALL: Final = "an empty grpc.aio call, uvloop, as many reply bytes"
_CONSTANT: Final = "a constant `EVALSHA`, same keys and arguments, pipelined alike"

BUDGETS: Final = (
    Budget("server_cpu_ratio_unary", "server CPU per unary decision", 0.18, "", _EMPTY_CALL),
    Budget("server_cpu_ratio_batch32", "server CPU per decision in a `Batch` of 32", 0.10, "", _EMPTY_CALL),
    Budget("server_cpu_ratio_stream32", "server CPU per decision on a `Stream`, 32 in flight", 0.12, "", _EMPTY_CALL),
    Budget("redis_cpu_ratio", "Redis CPU per decision", 8, "", _CONSTANT),
    Budget("redis_cpu_ratio_settle", "Redis CPU per settle", 7, "", _CONSTANT),
    Budget("workers_ratio", "decisions per second of 2 workers, by CPU time", 1.7, "", "1 worker", least=True),
    Budget("p99_ms_half_peak", "p99 of a decision at half of the peak rate", 5, " ms", "none"),
    Budget("tenant_bytes", "memory of an idle tenant with five limits", 1024, " B", "none"),
    Budget("hold_bytes", "memory of an active hold", 400, " B", "none"),
    Budget("tombstone_bytes", "memory of a tombstone", 200, " B", "none"),
    Budget("growth_ratio", "Redis CPU per decision, many tenants or holds", 1.3, "", "100 of them"),
    Budget("audit_units_off", "units by which server and callers differ", 0, "", "the callers' books"),
    Budget("sample_units_off", "units by which samples of use differ from a plain sum", 0, "", "a plain computation"),
)


def missed(figures: Mapping[str, float]) -> list[str]:
    """The figures that do not keep their budget."""
    return [budget.figure for budget in BUDGETS if budget.verdict(figures[budget.figure]) != "kept"]
