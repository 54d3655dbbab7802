"""Work that is done again and again, and never ends because of an error."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import uniform
from types import TracebackType
from typing import Final, Self

from server.domain.errors import HoldgateError
from server.logs import log

LONGEST_BACKOFF: Final = 8
"""After errors the pause doubles, up to this many times the interval."""

JITTER: Final = 0.2
"""Each pause is longer or shorter by up to this part, so that many servers do not beat in time."""


class Periodic:
    """Calls `work` with pauses of about `interval_s` while its `async with` block runs."""

    def __init__(self, name: str, work: Callable[[], Awaitable[object]], interval_s: float) -> None:
        self._name = name
        self._work = work
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._succeeded_s: float | None = None

    @property
    def succeeded_s_ago(self) -> float | None:
        """Seconds since the work was last done without an error; None before the first time."""
        if self._succeeded_s is None:
            return None
        return asyncio.get_running_loop().time() - self._succeeded_s

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self._once() else failures + 1
            pause_s = self._interval_s * min(2**failures, LONGEST_BACKOFF)
            await asyncio.sleep(pause_s * uniform(1 - JITTER, 1 + JITTER))  # noqa: S311  # jitter, not a secret

    async def _once(self) -> bool:
        try:
            await self._work()
        except HoldgateError as error:
            log.warning("job.failed", job=self._name, error=error.message)
            return False
        except Exception:  # noqa: BLE001  # the next round may do better, and the log has the cause
            log.exception("job.failed", job=self._name)
            return False
        self._succeeded_s = asyncio.get_running_loop().time()
        return True
