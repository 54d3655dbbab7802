"""The process's connection to the store: kept open in the background, shared by every call.

Nothing here sends a call twice. A call that could not be sent, or that the store refused before running it,
ends with `StoreUnavailable`; one that was sent and not answered ends with `OutcomeUnknown`, and only the
caller, who knows the operation's id, can find out what became of it. The one exception is harmless:
`NOSCRIPT` says that nothing ran, so the script is sent again in full.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from server.engine.handshake import shake_hands
from server.engine.pipeline import Heard, Pipeline, Reply, ScriptSource, StoreCall, Word
from server.engine.store_address import StoreAddress
from server.engine.store_errors import OutcomeUnknown, StoreError, StoreUnavailable, StoreUnsuitable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    OnConnect = Callable[[StoreCall], Awaitable[object]]

log = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 8_192
"""Calls waiting for a reply, or for a connection; beyond that the store is slower than the load."""

FIRST_BACKOFF_S: Final = 0.05
LONGEST_BACKOFF_S: Final = 2.0
STEADY_S: Final = 1.0
"""A connection that lived this long is replaced at once; a shorter one counts as a failed attempt."""


class StoreConnection:
    """One pipelined connection to the store at `url`, reopened whenever it breaks.

    `on_connect` callables run on each new connection, in order, before it serves calls; each gets a plain
    caller and vetoes the connection by raising. Not for blocking commands, transactions or subscriptions:
    they would hold up or mix with the calls of everyone else.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "holdgate",
        connect_timeout_s: float = 1.0,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_connect: Sequence[OnConnect] = (),
    ) -> None:
        self.address: Final = StoreAddress.parse(url)
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self._max_in_flight = max_in_flight
        self._on_connect = tuple(on_connect)
        self._pipeline: Pipeline | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._attempt_over = asyncio.Event()
        self._lost = asyncio.Event()
        self._last_error: StoreError = StoreUnavailable("connect() was not called", reason="disconnected")
        self._waiting: set[asyncio.Task[Reply]] = set()

    @property
    def connected(self) -> bool:
        """Whether calls are being sent; false while connecting, checking and backing off."""
        return self._pipeline is not None

    @property
    def silent_s(self) -> float:
        """For how long the store has owed an answer and sent nothing, in seconds; 0 while it owes none."""
        return 0.0 if self._pipeline is None else self._pipeline.silent_s

    async def connect(self) -> None:
        """Start keeping the connection and wait for the attempt under way.

        Raises what that attempt failed with, and goes on trying in the background until `close`.
        """
        if self._keeper is None:
            self._attempt_over.clear()
            self._keeper = asyncio.create_task(self._keep_connected(), name="store connection")
        await self._attempt_over.wait()
        if self._pipeline is None:
            raise self._last_error

    async def close(self) -> None:
        """Drop the connection; calls in flight end with `OutcomeUnknown`. Drain before."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._pipeline is not None:
            self._pipeline.on_lost = None
            self._pipeline.abort("this process closed the connection")
            self._pipeline = None
        self._last_error = StoreUnavailable("this process closed the connection", reason="disconnected")
        self._attempt_over.set()

    def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> asyncio.Future[Reply]:
        """Run a script; sends it in full when the store does not know it. Errors come through the future."""
        words = (b"EVALSHA", script.sha, len(keys), *keys, *args)
        if self._pipeline is not None:
            return self._pipeline.send(words, timeout_s, script, heard)
        return self._send_when_connected(words, timeout_s, script, heard)

    def call(self, *words: Word, timeout_s: float = 1.0) -> asyncio.Future[Reply]:
        """Run one plain command that answers at once, such as `("HGET", key, field)`."""
        if self._pipeline is not None:
            return self._pipeline.send(words, timeout_s)
        return self._send_when_connected(words, timeout_s)

    # calls made while there is no connection

    def _send_when_connected(
        self,
        words: tuple[Word, ...],
        timeout_s: float,
        script: ScriptSource | None = None,
        heard: Heard | None = None,
    ) -> asyncio.Future[Reply]:
        if self._attempt_over.is_set() or len(self._waiting) >= self._max_in_flight or self._keeper is None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_exception(self._not_connected())
            return future
        task = asyncio.create_task(self._wait_and_send(words, timeout_s, script, heard))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    async def _wait_and_send(
        self, words: tuple[Word, ...], timeout_s: float, script: ScriptSource | None, heard: Heard | None
    ) -> Reply:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._attempt_over.wait()
        except TimeoutError:
            raise self._not_connected() from None
        if self._pipeline is None:
            raise self._not_connected()
        return await self._pipeline.send(words, deadline - loop.time(), script, heard)

    def _not_connected(self) -> StoreUnavailable:
        return StoreUnavailable(f"not sent, no connection to the store: {self._last_error}", reason="disconnected")

    # keeping the connection

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = 0.0
        while True:
            started = loop.time()
            if await self._try_once():
                await self._lost.wait()
                if loop.time() - started >= STEADY_S:
                    backoff_s = 0.0
                    continue
            backoff_s = min(max(FIRST_BACKOFF_S, backoff_s * 2), LONGEST_BACKOFF_S)
            self._attempt_over.set()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1))  # noqa: S311  # jitter, not a secret

    async def _try_once(self) -> bool:
        self._attempt_over.clear()
        self._lost.clear()
        try:
            pipeline = await self._open()
        except StoreError as error:
            if str(error) != str(self._last_error):
                log.warning("no connection to the store: %s", error)
            self._last_error = error
        except Exception as fault:
            log.exception("a check of the store failed")
            self._last_error = StoreUnavailable(
                f"checking the store at {self.address} failed: {type(fault).__name__}: {fault}",
                reason="check_failed",
            )
        else:
            pipeline.on_lost = self._on_lost
            self._pipeline = pipeline
            log.info("connected to the store at %s", self.address)
        finally:
            self._attempt_over.set()
        return self._pipeline is not None

    async def _open(self) -> Pipeline:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                pipeline = await self.address.open(lambda: Pipeline(self._max_in_flight))
        except TimeoutError:
            raise StoreUnavailable(
                f"the store at {self.address} took no connection within {self._connect_timeout_s} s",
                reason="unreachable",
            ) from None
        try:
            caller = pipeline.call(self._connect_timeout_s)
            await shake_hands(self.address, caller, self._name)
            for check in self._on_connect:
                await check(caller)
        except BaseException as error:
            pipeline.abort("the connection was not put to use")
            if isinstance(error, OutcomeUnknown):
                raise self._why_no_answer(error) from error
            raise
        return pipeline

    def _why_no_answer(self, error: OutcomeUnknown) -> StoreError:
        """Explain a connection that went silent or broke before it was put to use."""
        if error.reason == "protocol":
            return StoreUnsuitable(f"no Redis server at {self.address}: {error}", reason="not_redis")
        what = (
            f"takes connections but answers nothing within {self._connect_timeout_s} s: frozen or overloaded"
            if error.reason == "timeout"
            else f"hung up while connecting ({error}): it may want TLS (rediss://)"
        )
        return StoreUnavailable(f"{self.address} {what}, or not be Redis", reason="unreachable")

    def _on_lost(self) -> None:
        self._pipeline = None
        self._last_error = StoreUnavailable(f"the connection to {self.address} broke", reason="disconnected")
        self._attempt_over.clear()
        self._lost.set()
        log.warning("the connection to the store at %s broke", self.address)
