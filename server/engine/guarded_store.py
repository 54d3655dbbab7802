"""A breaker in front of the connection: while the store does not answer, no call waits to find that out again.

Calls that fail one after another open it. It then refuses every script at once, and one probe at a time, with growing
and jittered pauses, asks whether the store takes writes again. Only a probe closes it, so that recovery costs the store
one command and not everything that waits.
"""

from __future__ import annotations

import asyncio
import logging
from random import uniform
from typing import TYPE_CHECKING, Final

from server.engine.store_errors import OutcomeUnknown, StoreError, StoreUnavailable, StoreUnsuitable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from server.engine.client import StoreConnection
    from server.engine.pipeline import Heard, Reply, ScriptSource, Word

log = logging.getLogger(__name__)

FAILURES_TO_OPEN: Final = 5
"""Calls in a row without an answer."""

PATIENCE_S: Final = 0.1
"""A store that kept a call waiting for less has not failed: its caller was in a hurry."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.25
"""Between probes; the pause doubles, and each is cut by up to half."""

PROBE_WITHIN_S: Final = 0.25

OPEN: Final = "breaker_open"
"""The reason of a call that was not sent because the breaker is open."""

_PROBE: Final = ("DEL", "hg:probe")
"""Changes nothing, and is refused by whatever refuses writes: a replica, a full disk, a store that still loads."""

_FAILURES: Final = frozenset(
    {"disconnected", "loading", "busy", "masterdown", "clusterdown", "readonly", "misconf", "noreplicas", "max_clients"}
)
"""Reasons for which the next call would fail, too. Not `oom`: what gives back still runs in a full store."""


class GuardedStore:
    """What the engine needs of a `StoreConnection`, behind a breaker."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._in_a_row = 0
        self._prober: asyncio.Task[None] | None = None
        self._why: StoreError | None = None
        self.is_open = False

    async def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Reply:
        """Runs a script; refused at once while the breaker is open."""
        if self.is_open:
            raise self.refusal()
        try:
            reply = await self._connection.evalsha(script, keys, args, timeout_s, heard)
        except StoreError as error:
            self._count(error, timeout_s)
            raise
        self._in_a_row = 0
        return reply

    def call(self, *words: Word, timeout_s: float = 1.0) -> Awaitable[Reply]:
        """Runs a plain command; refused at once while the breaker is open."""
        if self.is_open:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_exception(self.refusal())
            return future
        return self._connection.call(*words, timeout_s=timeout_s)

    async def close(self) -> None:
        """Ends the probing and drops the connection."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait({self._prober})
        await self._connection.close()

    def refusal(self) -> StoreUnavailable:
        """Why no call is sent while the breaker is open."""
        return StoreUnavailable(f"not sent, the store does not answer: {self._why}", reason=OPEN)

    def _count(self, error: StoreError, timeout_s: float) -> None:
        if self.is_open or not self._is_failure(error, timeout_s):
            return
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_TO_OPEN:
            log.warning("the store does not answer, calls are refused until it does: %s", error)
            self._why, self.is_open = error, True
            self._prober = asyncio.create_task(self._probe_until_it_answers(), name="store probe")

    def _is_failure(self, error: StoreError, timeout_s: float) -> bool:
        if isinstance(error, OutcomeUnknown):
            hurried = error.reason == "timeout" and max(timeout_s, self._connection.silent_s) < PATIENCE_S
            return not hurried
        return error.reason in _FAILURES or isinstance(error, StoreUnsuitable)

    async def _probe_until_it_answers(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self.is_open:
            await asyncio.sleep(pause_s * uniform(0.5, 1))  # noqa: S311  # jitter, not a secret
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._connection.call(*_PROBE, timeout_s=PROBE_WITHIN_S)
            except StoreError as error:
                self._why = error
            else:
                self._in_a_row, self.is_open = 0, False
                log.info("the store answers again")
