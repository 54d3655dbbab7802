"""Waiting for what the server's side of a test will see."""

import asyncio
from collections.abc import Callable

from tests.rpc.transport.raw import PATIENCE_S


async def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds; fails after a while."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)
