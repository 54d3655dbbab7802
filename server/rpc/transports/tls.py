"""The server's certificate, and whether callers must show theirs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class TlsError(Exception):
    """A certificate or key cannot be used; the message names the file."""


class TlsContent(NamedTuple):
    """What the files have, as PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's chain, its key, and the authorities that callers' certificates must come from.

    Without `client_ca` callers show no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def content(self) -> TlsContent:
        """What the files have now; raises OSError."""
        authorities = self.client_ca.read_bytes() if self.client_ca else None
        return TlsContent(self.certificate.read_bytes(), self.key.read_bytes(), authorities)

    def check(self) -> None:
        """Raises TlsError where a file cannot be read, is not PEM, or the key is another certificate's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An answer ahead of time, so that an encrypted key does not stop the start with a question.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise TlsError(f"TLS: {self.certificate} with the key {self.key} cannot be used: {error}") from error
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            raise TlsError(f"TLS: the clients' authorities {self.client_ca} cannot be used: {error}") from error
