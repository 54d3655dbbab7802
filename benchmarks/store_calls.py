"""Script calls of the engine, seen on their way to the store, and sent again with a script that does nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Final, NamedTuple, TypeVar

from server.engine.client import StoreConnection
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.scripts import Script

WITHIN_S: Final = 20.0

DEPTH: Final = 50
"""Calls that travel to the store in one write, as when so many requests come in one turn of the event loop."""

_Item = TypeVar("_Item")


_SOURCE: Final = b"return 1"
CONSTANT: Final = Script("constant", _SOURCE, sha1(_SOURCE, usedforsecurity=False).hexdigest().encode())
"""The yardstick of the store's figures: a script that looks at nothing."""


class ScriptCall(NamedTuple):
    """What one call gave a script."""

    keys: Sequence[bytes]
    args: Sequence[Word]


class Watched:
    """A connection to the store that remembers the script calls made through it, from `watch` to `taken`."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._calls: list[ScriptCall] | None = None

    def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Awaitable[Reply]:
        """Runs a script."""
        if self._calls is not None:
            self._calls.append(ScriptCall(keys, args))
        return self._connection.evalsha(script, keys, args, timeout_s, heard)

    def call(self, *words: Word, timeout_s: float = WITHIN_S) -> Awaitable[Reply]:
        """Runs a plain command."""
        return self._connection.call(*words, timeout_s=timeout_s)

    async def close(self) -> None:
        """Drops the connection."""
        await self._connection.close()

    def watch(self) -> None:
        """Remembers calls from now on."""
        self._calls = []

    def taken(self) -> list[ScriptCall]:
        """The calls since `watch`."""
        calls, self._calls = self._calls, None
        return calls or []

    async def nothing(self, calls: Sequence[ScriptCall]) -> None:
        """The same calls, as many in a write, for a script that does nothing."""
        for wave in waves(calls):
            await asyncio.gather(*(self._connection.evalsha(CONSTANT, call.keys, call.args, WITHIN_S) for call in wave))


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[Watched]:
    """A connection to the store."""
    connection = StoreConnection(url)
    await connection.connect()
    try:
        yield Watched(connection)
    finally:
        await connection.close()


def waves(items: Iterable[_Item]) -> Iterator[Sequence[_Item]]:
    """`DEPTH` of them at a time."""
    wave: list[_Item] = []
    for item in items:
        wave.append(item)
        if len(wave) == DEPTH:
            yield wave
            wave = []
    if wave:
        yield wave
