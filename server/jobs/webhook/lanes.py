"""Whose note is told next: a lane for each tenant that has any, the oldest first, and pauses after failures."""

from collections import deque
from dataclasses import dataclass, field
from random import uniform
from typing import Final

from server.domain.note import Note
from server.domain.operation import TenantRef

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 600.0
JITTER: Final = 0.2


@dataclass(slots=True)
class Lane:
    """A tenant's notes, told one after the other. `notes` are those that were read, behind `cursor`.

    A lane that fails lets others go first, and is asked again later and later.
    """

    ref: TenantRef
    oldest_ms: int
    cursor: str = ""
    notes: deque[Note] = field(default_factory=deque)
    failures: int = 0
    retry_at_s: float = 0.0


class Lanes:
    """All lanes of one endpoint. Times are seconds of any steady clock."""

    def __init__(self) -> None:
        self._lanes: dict[TenantRef, Lane] = {}
        self._failures = 0
        self._resume_at_s = 0.0

    def __contains__(self, ref: TenantRef) -> bool:
        return ref in self._lanes

    def add(self, ref: TenantRef, oldest_ms: int) -> None:
        """Opens a lane, unless the tenant has one."""
        self._lanes.setdefault(ref, Lane(ref, oldest_ms))

    def remove(self, lane: Lane) -> None:
        """Closes a lane that has nothing left."""
        del self._lanes[lane.ref]

    def next(self, now_s: float) -> Lane | None:
        """The lane to go on with; None while there is nothing to do or a pause is due."""
        if now_s < self._resume_at_s:
            return None
        due = [lane for lane in self._lanes.values() if lane.retry_at_s <= now_s]
        # While the endpoint fails, whoever has not failed: it may be about one tenant's notes alone.
        return min(due, key=lambda lane: (lane.failures if self._failures else 0, lane.oldest_ms), default=None)

    def due_at_s(self) -> float | None:
        """When there is something to do again; None while there are no lanes."""
        soonest = min((lane.retry_at_s for lane in self._lanes.values()), default=None)
        return None if soonest is None else max(soonest, self._resume_at_s)

    def failed(self, lane: Lane, now_s: float) -> float:
        """Sets a lane aside, and the endpoint for a little, as it may be down for all; the pause in seconds."""
        lane.failures += 1
        self._failures += 1
        lane.retry_at_s = now_s + _pause_s(lane.failures)
        self._resume_at_s = now_s + _pause_s(self._failures)
        return max(lane.retry_at_s, self._resume_at_s) - now_s

    def succeeded(self, lane: Lane) -> None:
        """The endpoint takes notes. Lanes that failed with it come back in their order: none waits longer than it."""
        self._failures, self._resume_at_s = 0, 0.0
        lane.failures, lane.retry_at_s = 0, 0.0


def _pause_s(failures: int) -> float:
    longest_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20), LONGEST_PAUSE_S)
    return longest_s * uniform(1 - JITTER, 1)  # noqa: S311  # jitter, not a secret
