"""`slots`: a pool of concurrent places with leases; twin of `engine/lua/include/pool.lua`.

The cell is a count; whose place it is and until when is the hold's lease, and overdue holds are given back
before anybody counts. A pool whose jobs have a usual length also remembers when the jobs in it began.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final

from server.domain.limits.base import (
    QUEUES,
    UNLIMITED,
    Change,
    Check,
    Ending,
    Kind,
    Limit,
    Look,
    PlanValues,
    QueueForm,
    QueueLook,
    Taken,
)

STARTS_KEPT: Final = 64
"""Most beginnings that a pool remembers."""

JOBS_AVERAGED: Final = 16
"""The measured length is a moving average over about so many jobs."""

JOBS_ENOUGH: Final = 8
"""Jobs that must have been measured before their average counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Where requests wait for a place: as many as `times` the pool's places, or `depths` if `times` is 0.

    A ticket is kept for `ticket_ms` after it was last asked for. `joined` has, for plans on which pools share their
    places and the order of arrival, the cells of all of them.
    """

    times: int = 0
    depths: PlanValues = UNLIMITED
    ticket_ms: int
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def depth(self, plan: str, cap: int) -> int:
        """How many may wait on this plan, with so many places."""
        return self.times * cap if self.times else self.depths.of(plan) or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots(Limit):
    """At most `values` places at once. `typical_ms` is the usual length of a job, for the hint; 0 if unknown. With
    `measured` the average of recent jobs takes its place once there were enough. With a `queue` requests that find no
    place wait for one.
    """

    kind: ClassVar[Kind] = Kind.SLOTS

    typical_ms: int = 0
    measured: bool = False
    queue: Queue | None = None

    def queue_form(self, plan: str, cap: int | None) -> QueueForm | None:
        """The queue as it applies on this plan, with so many places; None without one."""
        if self.queue is None or cap is None:
            return None
        return QueueForm(self.queue.depth(plan, cap), self.cell, self.joined(plan), self.queue.ticket_ms)

    def joined(self, plan: str) -> tuple[str, ...]:
        """The cells whose sum counts on this plan: its own, or those of all pools that share places with it."""
        return (self.cell,) if self.queue is None else self.queue.joined.get(plan, (self.cell,))


@dataclass(slots=True)
class SlotsCell:
    """Places taken; where the pool has a usual length, when jobs began, and the average length of recent ones."""

    taken: int = 0
    starts: list[int] = field(default_factory=list)
    mean_ms: int = 0
    jobs: int = 0

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; a full pool can only guess when a place will be free."""
        fits = check.amount == 0 or self.taken + check.amount <= check.cap
        wait_ms = 0 if fits else self._drain_ms(check.limit, now_ms)
        return Look(check.cap, self.taken, self.taken, -1, wait_ms)

    def look_at_queue(self, check: Check, used: int, queued: int, now_ms: int) -> QueueLook:
        """The figures of a pool with a queue: `used` places of all that share them, `queued` who wait for them.

        Nobody overtakes: with anyone waiting, a request waits too.
        """
        assert check.queue is not None
        wait_ms = 0
        if check.amount and (queued or used + check.amount > check.cap):
            wait_ms = QUEUES if queued < check.queue.depth else max(self.typical_ms(check.limit), 1)
            if check.amount > check.cap:
                wait_ms = -1
        return QueueLook(check.cap, used, used, -1, wait_ms, queued, check.queue.depth)

    def typical_ms(self, limit: Limit) -> int:
        """The usual length of a job, 0 if unknown."""
        assert isinstance(limit, Slots)
        return self.mean_ms if limit.measured and self.jobs >= JOBS_ENOUGH else limit.typical_ms

    def _drain_ms(self, limit: Limit, now_ms: int) -> int:
        """When the oldest job ends, if it takes as long as is usual; -1 where that is not known."""
        assert isinstance(limit, Slots)
        if not limit.typical_ms:
            return -1
        return max(min([now_ms, *self.starts]) + self.typical_ms(limit) - now_ms, 1)

    def follow(self, now_ms: int) -> None:
        """Nothing: time changes nothing here."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Takes places."""
        assert isinstance(check.limit, Slots)
        self.begin(check.take, check.limit, now_ms)
        return self.look(check._replace(amount=0), now_ms)

    def begin(self, places: int, limit: Slots, now_ms: int) -> None:
        """A job takes places."""
        self.taken += places
        if limit.typical_ms and len(self.starts) < STARTS_KEPT:
            self.starts.append(now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Frees the places when the hold ends, however it ends, and measures how long they were taken."""
        if not change.live or change.ending is Ending.REPORT:
            return 0
        self.taken -= taken.amount
        assert isinstance(limit, Slots)
        if not limit.typical_ms:
            return 0
        if taken.at_ms in self.starts:
            self.starts.remove(taken.at_ms)
        if limit.measured and change.ending in {Ending.SETTLE, Ending.RELEASE}:
            self.jobs = min(self.jobs + 1, JOBS_AVERAGED)
            self.mean_ms += (max(change.now_ms - taken.at_ms, 0) - self.mean_ms) // self.jobs
        return 0

    def is_empty(self, now_ms: int) -> bool:
        """Whether no place is taken and nothing was measured."""
        return self.taken == 0 and self.jobs == 0
