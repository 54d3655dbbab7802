"""One POST to the operator's endpoint, beside the event loop."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Final
from urllib.parse import urlsplit

CONNECT_WITHIN_S: Final = 3.0
ANSWER_WITHIN_S: Final = 10.0
"""For each piece of the answer that the endpoint lets us wait for."""

EXCHANGE_WITHIN_S: Final = 15.0
"""For all of it, however small the pieces."""

MOST_ANSWER_BYTES: Final = 64 * 1024


class EndpointError(Exception):
    """The endpoint has not taken the message; the text says why."""


class Endpoint:
    """Takes messages at an http or https URL; redirects are not followed, and no proxy is asked for the way."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    async def post(self, headers: Mapping[str, str], body: bytes) -> None:
        """Sends a message; raises EndpointError unless the answer is 2xx."""
        connection = self._connection()
        try:
            async with asyncio.timeout(EXCHANGE_WITHIN_S):
                status = await asyncio.to_thread(_exchange, connection, self._target, headers, body)
        except (OSError, HTTPException) as error:  # a TimeoutError is an OSError
            raise EndpointError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        finally:
            _cut(connection)
        if not 200 <= status < 300:  # noqa: PLR2004  # what HTTP calls success
            raise EndpointError(f"answered {status}")

    def _connection(self) -> HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return HTTPSConnection(host, port, timeout=CONNECT_WITHIN_S, context=ssl.create_default_context())
        return HTTPConnection(host, port, timeout=CONNECT_WITHIN_S)


def _exchange(connection: HTTPConnection, target: str, headers: Mapping[str, str], body: bytes) -> int:
    """The status that the endpoint answered with."""
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_WITHIN_S)
        connection.request("POST", target, body, dict(headers))
        response = connection.getresponse()
        response.read(MOST_ANSWER_BYTES)
        return response.status
    finally:
        connection.close()


def _cut(connection: HTTPConnection) -> None:
    """Ends a connection that a thread may still wait for, which closes it then."""
    with suppress(OSError, AttributeError):  # no socket yet, or none any more
        connection.sock.shutdown(SHUT_RDWR)
