"""Closed loops over lean connections: so many operations under way at any time, until all are answered."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from benchmarks.http2 import Connection, connect
from benchmarks.standard import WrongAnswer

_WITHIN_S = 60.0


@asynccontextmanager
async def connected(address: str, connections: int) -> AsyncIterator[list[Connection]]:
    """Connections to one server."""
    made = [await connect(address) for _ in range(connections)]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()


async def unary(
    connections: Sequence[Connection], path: bytes, messages: Sequence[bytes], in_flight: int
) -> list[bytes]:
    """A call for each message, `in_flight` at a time, evenly over the connections; the answers, in order."""
    answers = [b""] * len(messages)
    done = asyncio.get_running_loop().create_future()
    places = count()
    left = len(messages)

    def ask(connection: Connection) -> None:
        place = next(places)
        if place >= len(messages):
            return

        def answered(answer: bytes) -> None:
            nonlocal left
            answers[place] = answer
            left -= 1
            if not left:
                done.set_result(None)
            ask(connection)

        connection.call(path, messages[place], answered)

    for caller in range(in_flight):
        ask(connections[caller % len(connections)])
    await asyncio.wait_for(done, _WITHIN_S)
    return whole(answers)


class Stream:
    """One long-lived call, on which many operations are under way."""

    def __init__(self, connection: Connection, path: bytes) -> None:
        self._send = connection.stream(path, self._take)
        self._unsent: list[bytes] = []
        self._answers: list[bytes] = []
        self._awaited = 0
        self._done = asyncio.get_running_loop().create_future()

    async def play(self, messages: Sequence[bytes], in_flight: int) -> list[bytes]:
        """Sends the messages, `in_flight` at a time; the answers, in the order in which they came."""
        self._unsent = list(reversed(messages))
        self._answers, self._awaited = [], len(messages)
        self._done = asyncio.get_running_loop().create_future()
        for _ in range(min(in_flight, len(messages))):
            self._send(self._unsent.pop())
        await asyncio.wait_for(self._done, _WITHIN_S)
        return whole(self._answers)

    def _take(self, answer: bytes) -> None:
        self._answers.append(answer)
        if not answer or len(self._answers) == self._awaited:
            self._done.set_result(None)
        elif self._unsent:
            self._send(self._unsent.pop())


def whole(answers: list[bytes]) -> list[bytes]:
    """The answers; raises WrongAnswer when some calls had none."""
    if failed := answers.count(b""):
        raise WrongAnswer(f"{failed} of {len(answers)} calls ended with an error")
    return answers
