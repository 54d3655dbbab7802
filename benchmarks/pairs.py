"""Decisions that are settled as soon as they are made, with the time that each decision took."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from quota.v1 import quota_service_pb2 as quota

from benchmarks.http2 import Connection
from benchmarks.standard import Ask
from benchmarks.traffic import whole
from benchmarks.travel import RESERVE, SETTLE, must_be_granted, must_be_settled

_TICK_S: Final = 0.001
"""The event loop's timers have no finer grain. A request waits so long for its turn, and that counts as its latency."""
_WITHIN_S: Final = 120.0


class Pairs:
    """One decision and its settle for each ask; played once. Made ahead, so that no making of them is measured."""

    def __init__(self, connections: Sequence[Connection], asks: Sequence[Ask]) -> None:
        self._connections = connections
        self._reserves = [ask.reserve().SerializeToString() for ask in asks]
        self._settles = [ask.settle().SerializeToString() for ask in asks]
        self._decided = [b""] * len(asks)
        self._settled = [b""] * len(asks)
        self._took_s = [0.0] * len(asks)
        self._begun = self._ended = 0
        self._done = asyncio.get_running_loop().create_future()

    async def closed(self, in_flight: int) -> list[float]:
        """`in_flight` callers, each of which asks again when its hold is settled; what each decision took, in s."""
        for _ in range(min(in_flight, len(self._reserves))):
            self._begin(perf_counter(), again=True)
        await asyncio.wait_for(self._done, _WITHIN_S)
        return self._took_s

    async def paced(self, rate: float) -> list[float]:
        """`rate` decisions per second, due whatever became of the earlier ones; what each took since it was due."""
        start_s = perf_counter()
        while self._begun < len(self._reserves):
            due = min(int((perf_counter() - start_s) * rate) + 1, len(self._reserves))
            while self._begun < due:
                self._begin(start_s + self._begun / rate, again=False)
            await asyncio.sleep(_TICK_S)
        await asyncio.wait_for(self._done, _WITHIN_S)
        return self._took_s

    def must_be_right(self) -> None:
        """Raises WrongAnswer unless everything was granted and settled."""
        for answer in whole(self._decided):
            must_be_granted(quota.CheckAndReserveResponse.FromString(answer))
        for answer in whole(self._settled):
            must_be_settled(quota.SettleResponse.FromString(answer))

    def _begin(self, due_s: float, *, again: bool) -> None:
        place, self._begun = self._begun, self._begun + 1
        connection = self._connections[place % len(self._connections)]

        def decided(answer: bytes) -> None:
            self._took_s[place] = perf_counter() - due_s
            self._decided[place] = answer
            connection.call(SETTLE, self._settles[place], settled)

        def settled(answer: bytes) -> None:
            self._settled[place] = answer
            self._ended += 1
            if self._ended == len(self._reserves):
                self._done.set_result(None)
            elif again and self._begun < len(self._reserves):
                self._begin(perf_counter(), again=True)

        connection.call(RESERVE, self._reserves[place], decided)
