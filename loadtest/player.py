"""One request's life, as its caller lives it: ask, hold, settle or release, now and then twice."""

from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from quota.v1 import decision_pb2

from loadtest import ledger as books
from loadtest.callers import Caller, CallFailed
from loadtest.ledger import Hold, Ledger
from loadtest.mix import Ending
from loadtest.pauses import Pauses
from loadtest.plan import LoadPlan
from loadtest.recorder import RELEASE, RESERVE, SETTLE, Recorder
from loadtest.requests import PARTS, Draw, Drawn, release_of, settle_of
from loadtest.schedule import counted_from


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An operation of which nobody knows whether it took effect; `hold` is None when it asked for one."""

    drawn: Drawn
    hold: Hold | None


class Asked(NamedTuple):
    """What came of asking: `hold` is what was granted; `decided` is false when the call failed."""

    drawn: Drawn
    hold: Hold | None = None
    decided: bool = True


class Player:
    """Plays requests for one process, and keeps its books. Instants are those of `time.monotonic`."""

    def __init__(self, plan: LoadPlan, draw: Draw, caller: Caller, recorder: Recorder) -> None:
        self.ledger = Ledger()
        self.unresolved: list[Unresolved] = []
        self._plan = plan
        self._draw = draw
        self._caller = caller
        self._recorder = recorder
        self._pauses = Pauses()

    def stop(self) -> None:
        """Ends all pauses: what is held is settled or released at once."""
        self._pauses.end()

    async def ask(self, due_s: float) -> Asked:
        """Asks for the next decision, due at this instant; asks a second time where that was drawn."""
        drawn = self._draw.next()
        asked_s = monotonic()
        try:
            decision = (await self._caller.reserve(drawn.request, self._plan.timeout_s)).decision
        except CallFailed as failure:
            self._recorder.failed(RESERVE, failure.status, due_s, monotonic())
            if failure.unknown:
                self.unresolved.append(Unresolved(drawn, None))
            return Asked(drawn, decided=False)
        answered_s = monotonic()
        self._recorder.decided(decision, due_s, answered_s)
        if decision.outcome != decision_pb2.OUTCOME_GRANTED:
            return Asked(drawn)
        hold = self.ledger.granted(drawn.key, drawn.request, decision, asked_s, answered_s)
        if drawn.repeats:
            await self._ask_again(drawn, hold, due_s)
        return Asked(drawn, hold)

    async def finish(self, asked: Asked) -> None:
        """Keeps what was granted for its time, then settles, releases or abandons it."""
        if asked.hold is not None and asked.hold.leased:
            planned_s = monotonic() + asked.drawn.hold_s
            await self._pauses.until(planned_s)
            await self._end(asked.drawn, asked.hold, planned_s)

    async def _ask_again(self, drawn: Drawn, hold: Hold, due_s: float) -> None:
        try:
            again = await self._caller.reserve(drawn.request, self._plan.timeout_s)
        except CallFailed as failure:
            self._recorder.failed(RESERVE, failure.status, due_s, monotonic())
            return
        books.replayed(hold, again.decision)
        self._recorder.replayed(due_s)

    async def _end(self, drawn: Drawn, hold: Hold, planned_s: float) -> None:
        now_s = monotonic()
        due_s = counted_from(planned_s, now_s)
        if drawn.ending is Ending.ABANDON:
            self._recorder.abandoned(due_s)
            return
        rpc = SETTLE if drawn.ending is Ending.SETTLE else RELEASE
        try:
            await self.end(drawn, hold)
        except CallFailed as failure:
            self._recorder.failed(rpc, failure.status, due_s, monotonic())
            self.unresolved.append(Unresolved(drawn, hold))
            return
        if rpc is SETTLE:
            self._recorder.settled(due_s, monotonic())
        else:
            self._recorder.released(due_s, monotonic())
        if drawn.repeats_end:
            await self._end_again(drawn, hold, rpc, due_s)

    async def end(self, drawn: Drawn, hold: Hold) -> None:
        """Settles or releases the hold and books it; raises CallFailed."""
        timeout_s = self._plan.timeout_s
        if drawn.ending is Ending.SETTLE:
            settled = await self._caller.settle(settle_of(self._plan, hold, drawn.parts), timeout_s)
            books.charged(hold, (drawn.parts, PARTS), settled.meters)
        else:
            released = await self._caller.release(release_of(self._plan, hold), timeout_s)
            books.charged(hold, None, released.meters)

    async def _end_again(self, drawn: Drawn, hold: Hold, rpc: str, due_s: float) -> None:
        timeout_s = self._plan.timeout_s
        try:
            if rpc is SETTLE:
                applied = (await self._caller.settle(settle_of(self._plan, hold, drawn.parts), timeout_s)).applied
            else:
                applied = (await self._caller.release(release_of(self._plan, hold), timeout_s)).applied
        except CallFailed as failure:
            self._recorder.failed(rpc, failure.status, due_s, monotonic())
            return
        if applied:
            hold.tally.wrong[f"repeated {rpc}"] += 1
        self._recorder.replayed(due_s)
