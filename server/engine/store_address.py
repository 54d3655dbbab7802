"""Where the store is: parsing `HOLDGATE_REDIS_URL` and opening one socket to it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from server.engine.store_errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DEFAULT_PORT: Final = 6379
_SCHEMES: Final = ("redis", "rediss", "unix")
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
_VERIFY_MODES: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """One address of a Redis or Valkey server.

    Forms: `redis://[[user]:password@]host[:port][/db]`, `rediss://...` for TLS with the options
    `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths), `ssl_cert_reqs` (none, optional, required) and
    `ssl_check_hostname`, and `unix://[[user]:password@]/path/of/the.sock[?db=0]`. Names, passwords and paths
    are percent-encoded.
    """

    host: str = ""
    port: int = _DEFAULT_PORT
    path: str = ""
    """Path of a unix socket; empty for TCP."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, url: str) -> StoreAddress:
        """Read a URL; `ValueError` names what is wrong with it, never the password."""
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"store URL starts with {parts.scheme!r}, expected redis://, rediss:// or unix://")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if username and not password:
            raise ValueError(
                "store URL has a user without a password; a password alone is written redis://:password@host"
            )
        if parts.scheme == "unix":
            return cls(
                path=_socket_path(parts.hostname, parts.path),
                db=_database(options.pop("db", "0")),
                username=username,
                password=password,
                tls=_tls(options, on=False),
            )
        db = options.pop("db", None) or parts.path.strip("/") or "0"
        return cls(
            host=parts.hostname or "localhost",
            port=_port(parts),
            db=_database(db),
            username=username,
            password=password,
            tls=_tls(options, on=parts.scheme == "rediss"),
        )

    def __str__(self) -> str:
        """The address without user and password, fit for logs and errors; also the store's identity."""
        if self.path:
            return f"unix://{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.db}"

    async def open(self, factory: Callable[[], ProtocolT]) -> ProtocolT:
        """Open a socket and put a protocol on it; `StoreUnavailable` when nobody listens there."""
        loop = asyncio.get_running_loop()
        try:
            if self.path:
                return (await loop.create_unix_connection(factory, self.path))[1]
            return (await loop.create_connection(factory, self.host, self.port, ssl=self.tls))[1]
        except ssl.SSLError as error:
            raise StoreUnavailable(
                f"no TLS with the store at {self}: {error}; check the certificates, or use redis://",
                reason="tls",
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"cannot reach the store at {self}: {error}; is it running, and is HOLDGATE_REDIS_URL right?",
                reason="unreachable",
            ) from error


def _socket_path(host: str | None, path: str) -> str:
    if host or len(path) <= 1:
        raise ValueError(
            "store URL unix:// wants an absolute path after two slashes, as in unix:///run/holdgate/store.sock"
        )
    return unquote(path)


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _DEFAULT_PORT
    except ValueError:  # its text would show a piece of a password that is not percent-encoded
        raise ValueError("store URL has no valid port; write : / ? # @ and % in a password percent-encoded") from None


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"store URL names database {text!r}, expected a number such as 0")
    return int(text)


def _tls(options: Mapping[str, str], *, on: bool) -> ssl.SSLContext | None:
    unknown = sorted(set(options) - (_TLS_OPTIONS if on else set()))
    if unknown:
        known = ", ".join(sorted(_TLS_OPTIONS)) + " and db" if on else "only db (rediss:// has TLS options)"
        raise ValueError(f"store URL has unknown options {', '.join(unknown)}; known: {known}")
    if not on:
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs") or None)
        if options.get("ssl_certfile"):
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile") or None)
    except OSError as error:
        raise ValueError(f"store URL names certificate files that cannot be used: {error}") from error
    verify = options.get("ssl_cert_reqs", "required")
    if verify not in _VERIFY_MODES:
        raise ValueError(f"store URL has ssl_cert_reqs={verify!r}, expected none, optional or required")
    context.check_hostname = _switch(options, "ssl_check_hostname", default=verify == "required")
    context.verify_mode = _VERIFY_MODES[verify]
    return context


def _switch(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name, "").lower()
    if text not in _TRUE | _FALSE | {""}:
        raise ValueError(f"store URL has {name}={text!r}, expected true or false")
    return text in _TRUE if text else default
