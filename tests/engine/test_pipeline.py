"""Many calls on one socket: one write per turn, replies in order, bounds."""

import asyncio
from typing import Any

import hiredis
import pytest

from server.engine.pipeline import Pipeline
from server.engine.store_errors import OutcomeUnknown, StoreUnavailable
from tests.stores import TestScript

SCRIPT = TestScript(b"#!lua\nreturn 1")


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:  # noqa: ANN401  # as asyncio declares it
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def pipeline(wire: Wire) -> Pipeline:
    pipeline = Pipeline(max_in_flight=200)
    pipeline.connection_made(wire)
    return pipeline


async def test_calls_of_one_turn_leave_in_one_write(pipeline: Pipeline, wire: Wire) -> None:
    calls = [pipeline.send(("ECHO", number), 1.0) for number in range(100)]
    assert wire.writes == []
    await turn()
    assert len(wire.writes) == 1
    assert wire.writes[0] == b"".join(encoded("ECHO", number) for number in range(100))
    pipeline.data_received(b"".join(b":%d\r\n" % number for number in range(100)))
    assert [await call for call in calls] == list(range(100))


async def test_a_reply_may_arrive_in_pieces_and_with_others(pipeline: Pipeline) -> None:
    first, second, third = (pipeline.send(("PING",), 1.0) for _ in range(3))
    await turn()
    for piece in (b"*2\r\n$3\r\na", b"bc\r\n:", b"7\r\n$-1\r\n+OK", b"\r\n"):
        pipeline.data_received(piece)
    assert [await first, await second, await third] == [[b"abc", 7], None, b"OK"]


async def test_a_cancelled_call_only_loses_its_own_reply(pipeline: Pipeline, wire: Wire) -> None:
    calls = [pipeline.send(("ECHO", number), 1.0) for number in range(3)]
    await turn()
    calls[1].cancel()
    pipeline.data_received(b":0\r\n:1\r\n:2\r\n")
    assert (await calls[0], await calls[2]) == (0, 2)
    assert not wire.aborted


async def test_an_unknown_script_is_sent_once_more_in_full(pipeline: Pipeline, wire: Wire) -> None:
    """Per call of the line; a store that even then knows no script is answered as such."""
    calls = [pipeline.send(("EVALSHA", SCRIPT.sha, 1, b"key", number), 1.0, SCRIPT) for number in range(3)]
    await turn()
    pipeline.data_received(b":0\r\n-NOSCRIPT No matching script.\r\n:2\r\n")
    await turn()
    assert wire.writes[1:] == [encoded("EVAL", SCRIPT.source, 1, b"key", 1)]
    pipeline.data_received(b"-NOSCRIPT still not\r\n")
    assert (await calls[0], await calls[2]) == (0, 2)
    with pytest.raises(StoreUnavailable, match="NOSCRIPT still not"):
        await calls[1]
    await turn()
    assert len(wire.writes) == 2


async def test_of_calls_for_a_forgotten_script_one_brings_its_text(pipeline: Pipeline, wire: Wire) -> None:
    """Again when the store forgets it again."""
    calls = [pipeline.send(("EVALSHA", SCRIPT.sha, 0, number), 1.0, SCRIPT) for number in range(3)]
    await turn()
    pipeline.data_received(b"-NOSCRIPT No matching script.\r\n" * 3)
    await turn()
    behind = [encoded("EVALSHA", SCRIPT.sha, 0, number) for number in (1, 2)]
    assert b"".join(wire.writes[1:]) == encoded("EVAL", SCRIPT.source, 0, 0) + b"".join(behind)
    pipeline.data_received(b":0\r\n:1\r\n-NOSCRIPT Forgotten again.\r\n")
    await turn()
    assert wire.writes[-1] == encoded("EVAL", SCRIPT.source, 0, 2)
    pipeline.data_received(b":2\r\n")
    assert [await call for call in calls] == [0, 1, 2]


async def test_a_call_given_up_before_noscript_is_not_sent_again(pipeline: Pipeline, wire: Wire) -> None:
    call = pipeline.send(("EVALSHA", SCRIPT.sha, 0), 1.0, SCRIPT)
    await turn()
    call.cancel()
    pipeline.data_received(b"-NOSCRIPT No matching script.\r\n")
    await turn()
    assert len(wire.writes) == 1


async def test_beyond_the_bound_of_calls_in_flight_calls_are_refused_unsent(pipeline: Pipeline, wire: Wire) -> None:
    calls = [pipeline.send(("ECHO", number), 1.0) for number in range(200)]
    with pytest.raises(StoreUnavailable, match="slower than the load") as refused:
        await pipeline.send(("ECHO", "one too many"), 1.0)
    assert refused.value.reason == "overloaded"
    pipeline.data_received(b":0\r\n")
    pipeline.send(("ECHO", "room again"), 1.0)
    await turn()
    assert b"one too many" not in b"".join(wire.writes)
    assert b"room again" in b"".join(wire.writes)
    for call in calls:
        call.cancel()


async def test_while_the_store_takes_no_bytes_calls_are_refused_unsent(pipeline: Pipeline, wire: Wire) -> None:
    pipeline.pause_writing()
    with pytest.raises(StoreUnavailable):
        await pipeline.send(("ECHO", "refused"), 1.0)
    pipeline.resume_writing()
    pipeline.send(("ECHO", "sent"), 1.0).cancel()
    await turn()
    assert len(wire.writes) == 1


async def test_a_lost_connection_tells_sent_calls_from_unsent_ones(pipeline: Pipeline, wire: Wire) -> None:
    sent = pipeline.send(("INCR", "a"), 1.0)
    await turn()
    unsent = pipeline.send(("INCR", "b"), 1.0)
    pipeline.eof_received()
    late = pipeline.send(("INCR", "c"), 1.0)
    pipeline.connection_lost(None)
    await turn()
    with pytest.raises(OutcomeUnknown) as unknown:
        await sent
    assert unknown.value.reason == "connection_lost"
    for call in (unsent, late):
        with pytest.raises(StoreUnavailable):
            await call
    assert wire.writes == [encoded("INCR", "a")]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400"), (b"\x15\x03\x01\x00\x02\x02F", "TLS")],
)
async def test_an_answer_that_is_not_redis_ends_the_connection_and_is_quoted(
    pipeline: Pipeline, wire: Wire, answer: bytes, hint: str
) -> None:
    call = pipeline.send(("PING",), 1.0)
    await turn()
    pipeline.data_received(answer)
    assert wire.aborted
    pipeline.connection_lost(None)
    with pytest.raises(OutcomeUnknown, match=hint) as unknown:
        await call
    assert unknown.value.reason == "protocol"


async def test_a_store_without_a_free_connection_says_so_unasked(pipeline: Pipeline, wire: Wire) -> None:
    """It sends the error and hangs up before any call; that is no foreign protocol."""
    pipeline.data_received(b"-ERR max number of clients reached\r\n")
    assert wire.aborted
    with pytest.raises(StoreUnavailable, match="raise its maxclients"):
        await pipeline.send(("PING",), 1.0)


async def test_a_reply_that_nobody_asked_for_ends_the_connection(pipeline: Pipeline, wire: Wire) -> None:
    """From then on, answers could go to the wrong caller."""
    pipeline.data_received(b"+OK\r\n")
    assert wire.aborted


async def turn() -> None:
    """Let the event loop come around once."""
    await asyncio.sleep(0)


def encoded(*words: bytes | str | int) -> bytes:
    return bytes(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows one word only
