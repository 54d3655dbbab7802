"""An event loop without a world: callbacks in the order in which they were asked for, and a clock that is told.

Enough for `asyncio.Task`, `Future` and `gather`; nothing in it can wait for anything outside.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast


class StillLoop:
    """Runs what is ready, then returns. Has what tasks and futures ask of a loop, and no more."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._self = cast("asyncio.AbstractEventLoop", self)
        self.now_s = 0.0

    def run_ready(self) -> None:
        """Runs callbacks until none is left."""
        asyncio._set_running_loop(self._self)  # noqa: SLF001  # what a loop is for
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()  # noqa: SLF001  # as above
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001  # as above

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._self)

    def create_task(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self._self)

    # what tasks and futures ask

    def time(self) -> float:
        return self.now_s

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._self, context)
        self._ready.append(handle)
        return handle

    def get_debug(self) -> bool:  # asked of the loop
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Told of replies and tasks that nobody waits for any more: those of a world that broke off."""
