"""Many small calls, a few at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

_AT_ONCE: Final = 32
_TELL_EVERY: Final = 100

Subject = TypeVar("Subject")


async def each(
    act: Callable[[Subject], Awaitable[None]], subjects: Iterable[Subject], on_progress: Callable[[int], None]
) -> None:
    """Awaits `act` for each subject, 32 at once; tells now and then how many are done. The first error ends it."""
    waiting = iter(subjects)
    done = 0

    async def work() -> None:
        nonlocal done
        for subject in waiting:
            await act(subject)
            done += 1
            if done % _TELL_EVERY == 0:
                on_progress(done)

    workers = [asyncio.create_task(work()) for _ in range(_AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    on_progress(done)
