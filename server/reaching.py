"""How the commands reach a server: its address, TLS, and what they show of themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

TOKEN_VARIABLE: Final = "HOLDGATE_TOKEN"  # noqa: S105  # the name of one, none itself
"""Not a flag: others on the machine can read a process's flags."""


class Target(NamedTuple):
    """A server to call. `ca` are its authorities, where it has TLS; `cert` and `key` are shown to it, and `token`."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""

    def channel(self) -> grpc.Channel:
        """A connection to it; raises OSError for a file that cannot be read."""
        if self.ca is None:
            channel = grpc.insecure_channel(self.address)
        else:
            key, chain = (path.read_bytes() if path else None for path in (self.key, self.cert))
            channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain))
        return grpc.intercept_channel(channel, _Shows(self.token)) if self.token else channel


class _Shows(grpc.UnaryUnaryClientInterceptor):
    """Sends the token with each call."""

    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)

    def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: Any,  # noqa: ANN401  # grpc's own
        request: Any,  # noqa: ANN401  # as above
    ) -> Any:  # noqa: ANN401  # as above
        """Adds it to the call's metadata."""
        return continuation(client_call_details._replace(metadata=self._metadata), request)
