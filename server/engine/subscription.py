"""The process's ear at the store: one connection that hears what scripts publish, reopened whenever it breaks.

What is published while it is broken is lost. `on_gap` is called whenever that may have happened, so nothing that must
not be missed may hang on a message alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from server.engine.handshake import shake_hands
from server.engine.pipeline import Pipeline, Reply
from server.engine.store_address import StoreAddress
from server.engine.store_errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

CONNECT_WITHIN_S: Final = 2.0
HEARTBEAT_S: Final = 10.0
"""A store that has not answered one ping when the next is due is taken for gone."""

FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 10.0

_PING: Final = b"*1\r\n$4\r\nPING\r\n"


class _Ear(Pipeline):
    """A connection that has subscribed: from then on the store speaks unasked."""

    def __init__(self, heard: Callable[[bytes, bytes], None]) -> None:
        super().__init__(max_in_flight=8)
        self._heard = heard
        self.gone = asyncio.Event()
        self.on_lost = self.gone.set
        self.spoke = True

    def unasked(self, reply: Reply) -> None:
        """A message of a channel, or the answer to a ping."""
        self.spoke = True
        match reply:
            case [b"message", channel, payload]:
                self._heard(channel, payload)
            case [b"pong", *_]:
                pass
            case _:
                super().unasked(reply)

    def ping(self) -> None:
        """Asks for a sign of life."""
        self.spoke = False
        self._transport.write(_PING)


class Subscription:
    """Hears `channels` of the store at `url`, each with what is to be done with a message's payload."""

    def __init__(self, url: str, channels: Mapping[bytes, Callable[[bytes], None]], on_gap: Callable[[], None]) -> None:
        self._address = StoreAddress.parse(url)
        self._channels = channels
        self._on_gap = on_gap
        self._keeper: asyncio.Task[None] | None = None
        self._told = ""

    def start(self) -> None:
        """Begins to listen, unless it does already."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="store subscription")

    async def close(self) -> None:
        """Hangs up."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None

    async def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                await self._listen()
                backoff_s = FIRST_BACKOFF_S
            except StoreError as error:
                self._tell(str(error))
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1))  # noqa: S311  # jitter, not a secret

    async def _listen(self) -> None:
        """Hears messages until the connection breaks; raises StoreError where it cannot be opened."""
        ear = await self._open()
        try:
            self._told = ""
            self._on_gap()
            while not ear.gone.is_set() and ear.spoke:
                ear.ping()
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await ear.gone.wait()
                except TimeoutError:
                    continue
        finally:
            ear.abort("the subscription ended")

    async def _open(self) -> _Ear:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                ear = await self._address.open(lambda: _Ear(self._hear))
        except TimeoutError:
            text = f"the store at {self._address} took no connection within {CONNECT_WITHIN_S} s"
            raise StoreUnavailable(text, reason="unreachable") from None
        try:
            call = ear.call(CONNECT_WITHIN_S)
            await shake_hands(self._address, call, "holdgate-ear")
            for channel in self._channels:
                await call("SUBSCRIBE", channel)
        except BaseException:
            ear.abort("the subscription was not made")
            raise
        return ear

    def _hear(self, channel: bytes, payload: bytes) -> None:
        if (act := self._channels.get(channel)) is not None:
            act(payload)

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            log.warning("nothing that the store publishes is heard: %s", why)
