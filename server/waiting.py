"""Open calls that wait in queues: woken when their turn comes, and kept in their places while this process lives.

All that wait at one tenant are renewed in one step, so a crowd costs little; a wake-up that got lost is found out by
the next renewal. What a dead process leaves behind lapses within CALL_TICKET_MS.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from server.domain.errors import HoldgateError, InvalidRequestError, StoreUnavailableError
from server.domain.operation import TenantRef
from server.domain.queue import CALL_TICKET_MS, Ticket
from server.engine.queues import Queues

RENEW_EVERY_S: Final = 1.5
"""Renewals of each place; more than two may fail before it lapses."""

RENEWED_AT_ONCE: Final = 500
"""Places that one step renews."""

WITHIN_S: Final = 2.0
"""How long a renewal, or the end of a call that was given up, waits for the store."""

_MS_PER_SECOND: Final = 1000
_MARGIN_S: Final = 0.001


@dataclass(slots=True, eq=False)
class Turn:
    """One open call: its ticket, the cells of the queues that it may stand in, and whether its turn has come."""

    ref: TenantRef
    hold_id: str
    ticket: Ticket
    cells: Sequence[str]
    come: asyncio.Event = field(default_factory=asyncio.Event)


class Waiting:
    """The open calls of one process. `loaded_at_s` tells when the policies were read that decide now."""

    def __init__(self, queues: Queues, loaded_at_s: Callable[[], float]) -> None:
        self._queues = queues
        self._loaded_at_s = loaded_at_s
        self._heeded_s = loaded_at_s()
        self._turns: dict[TenantRef, dict[str, list[Turn]]] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[TenantRef, asyncio.TimerHandle] = {}
        self._listens = self._closed = False
        self.aside: Callable[[], AbstractContextManager[None]] = nullcontext
        """Within it a call is not counted as work; set by whoever counts."""

    @contextmanager
    def turn(self, ref: TenantRef, hold_id: str, cells: Sequence[str]) -> Iterator[Turn]:
        """A call that may have to wait. Cancelled, it leaves its queue; a place that another call of the same request
        has taken over stays, and so does one that another here waits for: that one takes it over.
        """
        if not self._listens:
            self._listens = True
            self._queues.turns.listen(self._come, self._missed)
        ticket = Ticket(CALL_TICKET_MS, f"{self._queues.turns.process}.{next(self._numbers)}")
        turn = Turn(ref, hold_id, ticket, cells)
        same = self._turns.setdefault(ref, {}).setdefault(hold_id, [])
        same.append(turn)
        try:
            yield turn
        except (asyncio.CancelledError, TimeoutError):
            if same == [turn]:
                self._start(self._leave(turn))
            raise
        finally:
            same.remove(turn)
            _wake(same)
            if not same:
                del self._turns[ref][hold_id]
            if not self._turns[ref]:
                del self._turns[ref]

    async def until_come(self, turn: Turn, within_s: float | None) -> None:
        """Until its turn may have come; TimeoutError when the time is over, StoreUnavailableError when the server
        stops.
        """
        if self._closed:
            raise StoreUnavailableError("the server stops; send the request again at once, and it keeps its place")
        with self.aside():
            async with asyncio.timeout(within_s):
                await turn.come.wait()
        turn.come.clear()
        if self._closed:
            raise StoreUnavailableError("the server stops; send the request again at once, and it keeps its place")

    async def renew(self) -> None:
        """Renews the places of all calls; once the policies have been read again, gives those that are free by them."""
        await asyncio.gather(*[self._renew(ref, list(turns.items())) for ref, turns in list(self._turns.items())])
        loaded_s = self._loaded_at_s()
        if loaded_s != self._heeded_s:
            await asyncio.gather(*[self._heed(ref) for ref in list(self._turns)])
            self._heeded_s = loaded_s

    def close(self) -> None:
        """Ends the waiting of all calls, whose places are kept for whoever repeats them soon enough."""
        self._closed = True
        for turns in self._turns.values():
            for same in turns.values():
                _wake(same)
        for timer in self._due.values():
            timer.cancel()

    @property
    def count(self) -> int:
        """How many calls wait, or are about to."""
        return sum(len(same) for turns in self._turns.values() for same in turns.values())

    async def _renew(self, ref: TenantRef, turns: Sequence[tuple[str, Sequence[Turn]]]) -> None:
        for start in range(0, len(turns), RENEWED_AT_ONCE):
            some = dict(turns[start : start + RENEWED_AT_ONCE])
            cells = {cell: None for same in some.values() for turn in same for cell in turn.cells}
            renewed = await self._queues.renew(ref, tuple(cells), list(some), CALL_TICKET_MS, WITHIN_S)
            for hold_id in renewed.gone:
                _wake(some[hold_id])
            if renewed.next_due_ms:
                self._see_to_at(ref, (renewed.next_due_ms - renewed.now_ms) / _MS_PER_SECOND)

    async def _heed(self, ref: TenantRef) -> None:
        """Looks at who waits by the policy as it is now; where it is gone, they are told when they ask again."""
        with suppress(InvalidRequestError):
            await self._queues.see_to(ref, WITHIN_S, afresh=True)

    def _see_to_at(self, ref: TenantRef, delay_s: float) -> None:
        """Frees what a lease's end frees at that moment, if it comes before the next renewal."""
        if delay_s > RENEW_EVERY_S or ref in self._due or self._closed:
            return
        self._due[ref] = asyncio.get_running_loop().call_later(max(delay_s, 0) + _MARGIN_S, self._see_to, ref)

    def _see_to(self, ref: TenantRef) -> None:
        self._due.pop(ref, None)
        if ref in self._turns:
            self._start(self._seen_to(ref))

    async def _seen_to(self, ref: TenantRef) -> None:
        await self._queues.see_to(ref, WITHIN_S)

    async def _leave(self, turn: Turn) -> None:
        await self._queues.leave(turn.ref, turn.hold_id, turn.ticket.owner, WITHIN_S)

    def _come(self, ref: TenantRef, hold_id: str) -> None:
        _wake(self._turns.get(ref, {}).get(hold_id, ()))

    def _missed(self) -> None:
        if self._turns:
            self._start(self.renew())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _wake(turns: Sequence[Turn]) -> None:
    for turn in turns:
        turn.come.set()


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """A ticket that could not be given up or renewed now lapses by itself."""
    try:
        await work
    except HoldgateError:
        return
