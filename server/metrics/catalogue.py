"""Every metric there is. Labels have values from policies and code, never from callers, so their number is bounded."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_MS: Final = 1000

QUICK_US: Final = tuple(
    int(ms * _MS) for ms in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
)
"""Upper bounds of what takes milliseconds, in microseconds."""

SLOW_US: Final = tuple(
    seconds * 1000 * _MS for seconds in (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)
)
"""Upper bounds of what takes seconds to hours, in microseconds."""


class Across(StrEnum):
    """What a gauge of several processes is."""

    SUM = "sum"
    MOST = "most"
    LEAST = "least"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """`name` is without the prefix and the endings that its kind adds; `bounds_us` makes it a histogram of durations.

    A metric without `across` counts. `per_unit` is how many of the whole numbers that are kept make one of its unit.
    What `rises` is a count as well, taken over from somewhere.
    """

    name: str
    about: str
    labels: tuple[str, ...] = ()
    across: Across | None = None
    bounds_us: tuple[int, ...] = ()
    per_unit: int = 1
    rises: bool = False

    @property
    def shown(self) -> str:
        """Its name as it is scraped; of a histogram, the name that `_bucket`, `_sum` and `_count` follow."""
        return f"holdgate_{self.name}{'_total' if self.counts else ''}"

    @property
    def counts(self) -> bool:
        """Whether it only ever grows."""
        return self.rises or not (self.across or self.bounds_us)

    @property
    def places(self) -> int:
        """How many numbers one set of labels takes: of a histogram one per bound, one beyond them, and the sum."""
        return len(self.bounds_us) + 2 if self.bounds_us else 1


# What is decided
DECISIONS: Final = Metric(
    "decisions",
    "Decisions made: granted, refused, replayed (a repeat of an id), would_grant and would_refuse (nothing taken).",
    ("policy", "outcome", "code"),
)
REFUSALS: Final = Metric(
    "refusals", "Refusals that a limit had a part in; a refusal by two limits counts for both.", ("policy", "limit")
)
SHADOW_REFUSALS: Final = Metric(
    "shadow_refusals", "Decisions that a shadow limit would have refused.", ("policy", "limit")
)
DEGRADED: Final = Metric(
    "degraded_decisions",
    "Requests that came while the store was gone: granted from this server's share, or denied a decision.",
    ("policy", "outcome"),
)
DEGRADED_NOW: Final = Metric("degraded", "Processes that decide without the store now.", across=Across.SUM)
BOOKINGS: Final = Metric(
    "bookings", "Grants made without the store that were booked when it was back: made, or lost.", ("outcome",)
)
BOOKINGS_WAITING: Final = Metric("bookings_waiting", "Grants made without the store, to be booked.", across=Across.SUM)
QUEUE_WAIT: Final = Metric(
    "queue_wait_seconds", "Waiting of requests that a queue let through.", ("policy", "limit"), bounds_us=SLOW_US
)

# Holds
HOLDS_OPENED: Final = Metric("holds_opened", "Holds with a lease that grants left.")
HOLDS_ENDED: Final = Metric(
    "holds_ended", "Holds that ended: settled, settled_late (after expiry), released.", ("how",)
)
HOLDS_EXPIRED: Final = Metric(
    "holds_expired", "Holds whose lease ended, by who gave back what they took: call or sweeper.", ("by",)
)
HOLDS_ACTIVE: Final = Metric("holds_active", "Holds with a live lease, in the store.", ("policy",), Across.MOST)
SETTLE_LAG: Final = Metric("settle_lag_seconds", "From a hold's grant to its final settle.", bounds_us=SLOW_US)
UNCOLLECTED: Final = Metric("uncollected_units", "Delivered units that no balance could pay.", ("policy", "meter"))

# Calls
CALLS: Final = Metric("calls", "Calls answered, by method and gRPC status.", ("method", "status"))
CALL_TIME: Final = Metric("call_seconds", "Time from a call's request to its answer.", ("method",), bounds_us=QUICK_US)
TURNED_AWAY: Final = Metric(
    "turned_away", "Calls that a busy process turned away at the door; they are among the calls, too.", ("method",)
)
IN_FLIGHT: Final = Metric("calls_in_flight", "Calls being answered now.", across=Across.SUM)

# The store
STORE_TIME: Final = Metric(
    "store_call_seconds", "Time from sending a script to its reply.", ("script",), bounds_us=QUICK_US
)
STORE_UP: Final = Metric("store_up", "1 while every process has a store that it may decide by.", across=Across.LEAST)
CLOCK_STEPS: Final = Metric(
    "store_clock_steps", "Steps of the store's clock that a process noticed: forward, back.", ("direction",)
)
SCRIPT_CALLS: Final = Metric(
    "store_scripts", "Scripts that the store ran for all its clients.", across=Across.MOST, rises=True
)
SCRIPT_TIME: Final = Metric(
    "store_script_seconds",
    "Time that the store spent in scripts for all its clients.",
    across=Across.MOST,
    per_unit=1_000_000,
    rises=True,
)

# Processes and policies
PROCESSES: Final = Metric("processes", "Processes that answer calls.", across=Across.SUM)
DRAINING: Final = Metric("draining", "Processes that take no more calls soon.", across=Across.SUM)
SWEEPER_UP: Final = Metric("sweeper_up", "1 while every process sweeps in time.", across=Across.LEAST)
POLICY_INFO: Final = Metric(
    "policy_info", "1 for each version by which some process decides.", ("policy", "version"), Across.MOST
)
POLICY_LOADED: Final = Metric(
    "policy_loaded_timestamp_seconds", "When the policies were last read, since the epoch.", (), Across.LEAST
)
POLICY_REJECTED: Final = Metric(
    "policy_rejected", "1 while some process keeps its last policies because the files are bad.", across=Across.MOST
)
SERIES_LOST: Final = Metric("series_lost", "Series that found no room among the metrics.")

ALL: Final = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
"""All of them."""
