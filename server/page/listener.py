"""Serves the page on an address of its own."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from h2corn import Config, Server

from server.page.app import PageApp

STOP_WITHIN_S: Final = 1.0


class PageListener:
    """Serves while its `async with` block runs; `address` is `host:port`. Entering raises OSError."""

    def __init__(self, app: PageApp, address: str, *, reuse_port: bool = False) -> None:
        self.address = address
        config = Config(
            bind=(address,),
            reuse_port=reuse_port,
            http1=True,
            lifespan="off",
            access_log=False,
            log_format="json",
            runtime_threads=1,
        )
        self._http = Server(app, config)
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._http.serve(), name="page")
        try:
            await self._http.wait_started()
        except OSError:
            with suppress(OSError):
                await self._serving
            raise
        self.address = f"{self.address.rpartition(':')[0]}:{self._http.addresses[0].rpartition(':')[2]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=STOP_WITHIN_S)
