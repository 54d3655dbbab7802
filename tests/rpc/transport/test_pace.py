"""Few calls begin in one turn of the event loop, in the order in which they came, so that those who wait are seen."""

import asyncio
import weakref
from typing import Any, Final

from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode, aio

from server.rpc.load import Load
from server.rpc.transports.asgi.app import GrpcApp
from server.rpc.transports.asgi.framing import Event
from server.rpc.transports.asgi.pace import CROWD, PER_CROWDED_TURN, PER_TURN, Pace
from tests.rpc.transport.conftest import serving
from tests.rpc.transport.probe import ProbeStub
from tests.waiting import until

Turn = asyncio.Future[bool]

GRPC: Final = [(b"content-type", b"application/grpc")]
UNIMPLEMENTED, UNAVAILABLE = (code.value[0] for code in (StatusCode.UNIMPLEMENTED, StatusCode.UNAVAILABLE))


def arriving(pace: Pace, calls: int) -> list[Turn | None]:
    """What so many calls that come at once have to wait for."""
    turns = []
    for _ in range(calls):
        pace.arrive()
        turns.append(pace.begin())
    return turns


async def waves(turns: list[Turn]) -> list[int]:
    """How many of them are called in each turn of the loop, in order."""
    found = []
    while not all(turn.done() for turn in turns):
        before = sum(turn.done() for turn in turns)
        await asyncio.sleep(0)
        if called := sum(turn.done() for turn in turns) - before:
            assert all(turn.done() for turn in turns[: before + called])
            found.append(called)
    return found


async def test_calls_beyond_those_of_a_turn_begin_in_the_next_ones_in_order() -> None:
    turns = arriving(Pace(Load()), CROWD - 1)
    assert turns[:PER_TURN] == [None] * PER_TURN
    assert await waves([turn for turn in turns if turn]) == [CROWD - 1 - PER_TURN]


async def test_when_a_crowd_comes_turns_are_short_until_it_is_in() -> None:
    turns = [turn for turn in arriving(Pace(Load()), CROWD + PER_TURN) if turn]
    assert await waves(turns) == [PER_CROWDED_TURN, PER_TURN, CROWD - PER_CROWDED_TURN - PER_TURN]


async def test_who_goes_away_takes_nobodys_place() -> None:
    turns = [turn for turn in arriving(Pace(Load()), PER_TURN + 3) if turn]
    turns[0].cancel()
    turns[1].cancel()
    assert await turns[2]


async def test_of_more_than_there_is_room_for_who_waited_longest_is_turned_away() -> None:
    load = Load()
    pace = Pace(load)
    turns = [turn for turn in arriving(pace, PER_TURN + 5) if turn]
    load.active, load.limit = PER_TURN + 5, PER_TURN + 2
    assert [await turn for turn in turns] == [False, False, False, True, True]


async def test_it_rests_while_nobody_calls() -> None:
    """Then the event loop knows nothing of it."""
    pace = Pace(Load())
    arriving(pace, 1)
    known = weakref.ref(pace)
    del pace
    assert known() is not None
    await until(lambda: known() is None, what="it to rest")


async def test_a_call_that_waited_in_vain_is_told_as_one_that_never_was_let_in() -> None:
    app, load, ends = GrpcApp(), Load(), list[Any]()
    app.bound(["/lab/Nothing"], load)
    scope = {"type": "http", "path": "/lab/Nothing", "method": "POST", "headers": GRPC, "extensions": {}}

    async def receive() -> Event:
        return {"type": "http.disconnect"}

    async def send(event: Event) -> None:
        if event["type"] == "http.response.start":
            ends.append(dict(event["headers"])[b"grpc-status"])

    calls = [asyncio.ensure_future(app(scope, receive, send)) for _ in range(PER_TURN + 2)]
    await asyncio.sleep(0)
    load.limit = 1  # for two who wait
    await asyncio.gather(*calls)
    assert [int(status) for status in ends] == [UNIMPLEMENTED] * PER_TURN + [UNAVAILABLE, UNIMPLEMENTED]
    assert (load.active, load.done) == (0, PER_TURN + 2)


async def test_calls_that_line_up_are_all_answered() -> None:
    load = Load()
    async with serving("asgi", load=load) as served, aio.insecure_channel(served.address) as channel:
        stub = ProbeStub(channel)
        served.probe.release.set()
        await asyncio.gather(*(stub.Wait(StringValue()) for _ in range(5 * CROWD)))
        assert (load.active, load.done) == (0, 5 * CROWD)
