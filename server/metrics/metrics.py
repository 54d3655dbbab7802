"""What the server counts, for whoever has something to count."""

from typing import Final

from server.metrics import catalogue as known
from server.metrics.book import Book, Counter, Gauge, Histogram


class Metrics:
    """One per process; each attribute is a metric of the catalogue. Counting costs some tenths of a microsecond."""

    def __init__(self, book: Book | None = None) -> None:
        self.book: Final = book or Book()

        def counter(metric: known.Metric) -> Counter:
            return Counter(self.book, metric)

        def gauge(metric: known.Metric) -> Gauge:
            return Gauge(self.book, metric)

        def histogram(metric: known.Metric) -> Histogram:
            return Histogram(self.book, metric)

        self.decisions: Final = counter(known.DECISIONS)
        self.refusals: Final = counter(known.REFUSALS)
        self.shadow_refusals: Final = counter(known.SHADOW_REFUSALS)
        self.degraded: Final = counter(known.DEGRADED)
        self.degraded_now: Final = gauge(known.DEGRADED_NOW)
        self.bookings: Final = counter(known.BOOKINGS)
        self.bookings_waiting: Final = gauge(known.BOOKINGS_WAITING)
        self.queue_wait: Final = histogram(known.QUEUE_WAIT)
        self.holds_opened: Final = counter(known.HOLDS_OPENED)
        self.holds_ended: Final = counter(known.HOLDS_ENDED)
        self.holds_expired: Final = counter(known.HOLDS_EXPIRED)
        self.holds_active: Final = gauge(known.HOLDS_ACTIVE)
        self.settle_lag: Final = histogram(known.SETTLE_LAG)
        self.uncollected: Final = counter(known.UNCOLLECTED)
        self.calls: Final = counter(known.CALLS)
        self.call_time: Final = histogram(known.CALL_TIME)
        self.turned_away: Final = counter(known.TURNED_AWAY)
        self.in_flight: Final = gauge(known.IN_FLIGHT)
        self.store_time: Final = histogram(known.STORE_TIME)
        self.store_up: Final = gauge(known.STORE_UP)
        self.clock_steps: Final = counter(known.CLOCK_STEPS)
        self.script_calls: Final = gauge(known.SCRIPT_CALLS)
        self.script_time: Final = gauge(known.SCRIPT_TIME)
        self.processes: Final = gauge(known.PROCESSES)
        self.draining: Final = gauge(known.DRAINING)
        self.sweeper_up: Final = gauge(known.SWEEPER_UP)
        self.policy_info: Final = gauge(known.POLICY_INFO)
        self.policy_loaded: Final = gauge(known.POLICY_LOADED)
        self.policy_rejected: Final = gauge(known.POLICY_REJECTED)
