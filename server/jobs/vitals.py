"""Keeps the gauges true: what the process is, rather than what it did."""

from typing import Final, NamedTuple

from server.engine.base import Engine
from server.metrics.metrics import Metrics
from server.policy.store import PolicyStore

CENSUS_INTERVAL_S: Final = 10.0
"""Between two looks at what the store has of all tenants."""


class Signs(NamedTuple):
    """What a process is at one instant."""

    store_up: bool
    degraded: bool
    bookings_waiting: int
    sweeper_up: bool
    in_flight: int


class Vitals:
    """Tells of one process."""

    def __init__(self, metrics: Metrics, policies: PolicyStore) -> None:
        self._metrics = metrics
        self._policies = policies
        metrics.processes.set(1)

    def show(self, signs: Signs) -> None:
        """The process and its policies as they are now."""
        metrics, policies = self._metrics, self._policies
        metrics.store_up.set(signs.store_up)
        metrics.degraded_now.set(signs.degraded)
        metrics.bookings_waiting.set(signs.bookings_waiting)
        metrics.sweeper_up.set(signs.sweeper_up)
        metrics.in_flight.set(signs.in_flight)
        metrics.policy_rejected.set(bool(policies.rejected))
        metrics.policy_loaded.set(int(policies.loaded_at_s))
        metrics.policy_info.clear()
        for name in policies.names:
            metrics.policy_info.set(1, name, policies.get(name).version)


class Census:
    """Tells what the store has of all tenants together; one process does for all."""

    def __init__(self, metrics: Metrics, engine: Engine) -> None:
        self._metrics = metrics
        self._engine = engine

    async def take(self) -> None:
        """Looks at all of them."""
        found = await self._engine.figures()
        self._metrics.holds_active.clear()
        for policy, holds in found.open_holds.items():
            self._metrics.holds_active.set(holds, policy)
        self._metrics.script_calls.set(found.scripts_run)
        self._metrics.script_time.set(found.scripts_us)
