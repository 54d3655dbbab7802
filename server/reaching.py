"""How the commands reach a server: its address, TLS, what they show of themselves, and what they say when it fails."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from rich.console import Console

from server.rpc.transports.tls import TlsError, check_authorities, check_pair

TOKEN_VARIABLE: Final = "HOLDGATE_TOKEN"  # noqa: S105  # the name of one, none itself
"""Not a flag: others on the machine can read a process's flags."""

_FAILED: Final = 1
_LAST_PORT: Final = 65_535
_NOBODY: Final = ("failed to connect to all addresses", "errors resolving")
"""How grpc begins when no server had a part in the failure."""


class TargetError(Exception):
    """No server can be called with these flags; the message says which is wrong, and what is expected."""


class Target(NamedTuple):
    """A server to call. `ca` are its authorities, where it has TLS; `cert` and `key` are shown to it, and `token`."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""

    def channel(self) -> grpc.Channel:
        """A connection to it; raises TargetError for what cannot be used, which grpc would end the process for."""
        self.check()
        credentials = self.credentials()
        if credentials is None:
            channel = grpc.insecure_channel(self.address)
        else:
            channel = grpc.secure_channel(self.address, credentials)
        return grpc.intercept_channel(channel, _Shows(self.metadata)) if self.token else channel

    @property
    def manner(self) -> str:
        """How it is reached, for who could not reach it."""
        return "with a certificate of --tls-ca" if self.ca else "without TLS (else say --tls-ca)"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call shows."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What a connection with TLS needs; None without."""
        if self.ca is None:
            return None
        key, chain = (path.read_bytes() if path else None for path in (self.key, self.cert))
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)

    def check(self) -> None:
        """Raises TargetError for what cannot be used."""
        host, _, port = self.address.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
            text = f"--address or HOLDGATE_LISTEN: expected host:port, such as 127.0.0.1:50051, not {self.address!r}"
            raise TargetError(text)
        if (self.cert is None) != (self.key is None):
            raise TargetError("a certificate to show needs both --tls-cert and --tls-key")
        if self.cert and not self.ca:
            raise TargetError("--tls-cert needs --tls-ca: without TLS no certificate is shown")
        if not (self.token.isascii() and self.token.isprintable()):
            raise TargetError(
                f"{TOKEN_VARIABLE}: expected printable ASCII on one line, as `openssl rand -hex 32` makes"
            )
        try:
            if self.ca:
                check_authorities(self.ca)
            if self.cert and self.key:
                check_pair(self.cert, self.key)
        except TlsError as error:
            raise TargetError(str(error)) from error


def add_shown(parser: argparse._ActionsContainer) -> None:
    """Adds the flags for TLS, and for what is shown to the server."""
    parser.add_argument("--tls-ca", metavar="FILE", type=Path, help="authorities of a server that has TLS, as PEM")
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate to show it, where it asks for one")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="that certificate's key")


def target_of(address: str, chosen: argparse.Namespace) -> Target:
    """The server at this address, with what the flags and the environment have to show it."""
    return Target(address, chosen.tls_ca, chosen.tls_cert, chosen.tls_key, os.environ.get(TOKEN_VARIABLE, ""))


TOKEN_NOTE: Final = f"Where the server tells callers apart, {TOKEN_VARIABLE} has the token to show it."


def complain(target: Target, error: grpc.RpcError) -> int:
    """Says on stderr how a call of the server failed, and what to look at; the exit status."""
    told = error.details() or ""
    warn(f"{target.address}: {error.code().name}: {told}")
    if error.code() is grpc.StatusCode.UNAVAILABLE and told.startswith(_NOBODY):
        warn(f"is a server running there, {target.manner}? --address or HOLDGATE_LISTEN names another")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and target.ca:
        warn("does the server have TLS? Without, leave --tls-ca out")
    return _FAILED


def warn(text: str) -> None:
    """A line on stderr, whole: what reads it looks for words."""
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(f"holdgate: {text}")


class _Shows(grpc.UnaryUnaryClientInterceptor):
    """Sends the token with each call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: Any,  # noqa: ANN401  # grpc's own
        request: Any,  # noqa: ANN401  # as above
    ) -> Any:  # noqa: ANN401  # as above
        """Adds it to the call's metadata."""
        return continuation(client_call_details._replace(metadata=self._metadata), request)
