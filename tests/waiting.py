"""Waiting, with an end to it, for something that is about to be so."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, sleep
from typing import Final, TypeVar

from grpc import StatusCode, aio

PATIENCE_S: Final = 20.0
PAUSE_S: Final = 0.002

_Answer = TypeVar("_Answer")


def wait_until(condition: Callable[[], bool], *, what: str = "it", within_s: float = PATIENCE_S) -> None:
    """Returns once it holds of something outside this process; fails when it does not in time."""
    ends_s = monotonic() + within_s
    while not condition():
        if monotonic() > ends_s:
            raise AssertionError(f"waited {within_s} s in vain for {what}")
        sleep(PAUSE_S)


async def until(condition: Callable[[], bool], *, what: str = "it", within_s: float = PATIENCE_S) -> None:
    """Returns once it holds of something inside this process, whose event loop runs meanwhile."""
    ends_s = monotonic() + within_s
    while not condition():
        if monotonic() > ends_s:
            raise AssertionError(f"waited {within_s} s in vain for {what}")
        await asyncio.sleep(PAUSE_S)


async def until_answered(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """The answer of a call, which is sent again while the server cannot reach its store or that is too slow."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(PAUSE_S)
