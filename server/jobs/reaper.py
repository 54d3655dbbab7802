"""Sweeps up overdue holds of tenants that nobody asks about; those of the others end with their next call."""

import asyncio
from typing import Final

from server.engine.base import Engine
from server.jobs.periodic import Periodic
from server.logs import log

MISSED_SWEEPS: Final = 10
"""Sweeps that may be missed before health says so."""

_LONGEST_SWEEP_S: Final = 30.0


class Reaper(Periodic):
    """Sweeps about every `interval_s` seconds."""

    def __init__(self, engine: Engine, interval_s: float) -> None:
        super().__init__("reaper", self._sweep, interval_s)
        self._engine = engine

    @property
    def keeps_up(self) -> bool:
        """Whether a sweep was finished lately."""
        ago_s = self.succeeded_s_ago
        return ago_s is not None and ago_s < self._interval_s * MISSED_SWEEPS + _LONGEST_SWEEP_S

    async def _sweep(self) -> None:
        async with asyncio.timeout(_LONGEST_SWEEP_S):
            expired = await self._engine.sweep()
        if expired:
            log.debug("reaper.swept", expired=expired)
