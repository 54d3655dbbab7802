"""The two ways to bring load: callers that wait for their answers, and arrivals that wait for nobody."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from loadtest.pauses import Pauses
from loadtest.plan import Closed, LoadPlan, Open
from loadtest.player import Player
from loadtest.schedule import Arrivals, counted_from

PAUSE_AFTER_FAILURE_S: Final = 0.1
"""How long a caller of the closed loop waits after a failed call, so that a dead server is not hammered."""


class Load:
    """The load of process number `worker` of `plan.processes`, from 0. `unsent` counts arrivals that were due and
    never went out, since too much was in flight.
    """

    def __init__(self, plan: LoadPlan, worker: int, player: Player, *, start_s: float) -> None:
        self.unsent = 0
        self._plan = plan
        self._worker = worker
        self._player = player
        self._start_s = start_s
        self._measure_s = start_s + plan.warm_up_s
        self._end_s = self._measure_s + plan.duration_s
        self._left = None if plan.count is None else part(plan.count, worker, plan.processes)
        self._pauses = Pauses()

    def stop(self) -> None:
        """Nothing new is asked from now on."""
        self._pauses.end()

    async def run(self, on_end: Callable[[], None]) -> None:
        """Asks until time or count is used up or `stop` is called; then calls `on_end` and waits for answers."""
        pace = self._plan.pace
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(on_end))
            if isinstance(pace, Closed):
                for _ in range(part(pace.callers, self._worker, self._plan.processes)):
                    tasks.create_task(self._caller())
            else:
                tasks.create_task(self._arrivals(pace, tasks))

    async def _watch(self, on_end: Callable[[], None]) -> None:
        await self._pauses.until(self._end_s)
        self._pauses.end()
        on_end()

    def _may_ask(self, due_s: float) -> bool:
        """Whether one more request, due at this instant, is within time and count; if so, it is counted."""
        if self._pauses.ended or due_s >= self._end_s:
            return False
        if self._left is not None and due_s >= self._measure_s:
            if self._left == 0:
                self._pauses.end()
                return False
            self._left -= 1
        return True

    async def _caller(self) -> None:
        await self._pauses.until(self._start_s)
        while self._may_ask(due_s := monotonic()):
            asked = await self._player.ask(due_s)
            await self._player.finish(asked)
            if not asked.decided:
                await self._pauses.until(monotonic() + PAUSE_AFTER_FAILURE_S)

    async def _arrivals(self, pace: Open, tasks: asyncio.TaskGroup) -> None:
        arrivals = Arrivals(pace.rate, first=self._worker, step=self._plan.processes)
        room = asyncio.Semaphore(part(pace.in_flight, self._worker, self._plan.processes))

        async def play(due_s: float) -> None:
            try:
                asked = await self._player.ask(due_s)
            finally:
                room.release()
            await self._player.finish(asked)

        while not self._pauses.ended:
            await self._pauses.until(self._start_s + arrivals.next_s)
            behind = False
            for elapsed_s in arrivals.take(monotonic() - self._start_s):
                planned_s = self._start_s + elapsed_s
                behind = behind or room.locked()
                await room.acquire()
                if self._may_ask(planned_s):
                    tasks.create_task(play(counted_from(planned_s, monotonic())))
                    continue
                room.release()
                if behind and planned_s < self._end_s and self._left != 0:
                    self.unsent += 1


def part(whole: int, worker: int, of: int) -> int:
    """This process's part of a whole that is dealt out evenly."""
    return whole // of + (worker < whole % of)
