"""Puts a new certificate to use once its files have it."""

from collections.abc import Awaitable, Callable
from typing import Final

from server.logs import log
from server.rpc.transports.tls import TlsContent, TlsError, TlsFiles

INTERVAL_S: Final = 2.0


class Renewal:
    """Looks at the files; `renew` has the transports read them again. Files that do not fit together change nothing
    and are looked at again: they may be half written.
    """

    def __init__(self, tls: TlsFiles, renew: Callable[[], Awaitable[object]]) -> None:
        self._tls = tls
        self._renew = renew
        self._used = tls.content()
        self._refused: TlsContent | None = None

    async def look(self) -> None:
        """Looks once."""
        content = self._tls.content()
        if content in {self._used, self._refused}:
            return
        try:
            self._tls.check()
        except TlsError as error:
            self._refused = content
            log.error("tls.refused", error=str(error))
            return
        await self._renew()
        self._used = content
        log.info("tls.renewed", certificate=str(self._tls.certificate))
