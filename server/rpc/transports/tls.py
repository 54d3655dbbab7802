"""The server's certificate, and whether callers must show theirs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"


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
        check_pair(self.certificate, self.key)
        if self.client_ca is not None:
            check_authorities(self.client_ca)


def check_pair(certificate: Path, key: Path) -> None:
    """Raises TlsError where either cannot be read, is not PEM, is encrypted, or the key is another certificate's."""
    _look_for(certificate, _CERTIFICATE, "certificate")
    _look_for(key, _KEY, "private key")
    try:
        # An answer ahead of time, so that an encrypted key does not stop the start with a question.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        why = "the key is another certificate's" if "KEY_VALUES_MISMATCH" in str(error) else str(error)
        raise TlsError(f"TLS: {certificate} with the key {key} cannot be used: {why}") from error


def check_authorities(path: Path) -> None:
    """Raises TlsError where the certificates of the authorities cannot be read, or are not PEM."""
    _look_for(path, _CERTIFICATE, "certificate of an authority")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise TlsError(f"TLS: the authorities in {path} cannot be used: {error}") from error


def _look_for(path: Path, mark: bytes, what: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(f"TLS: {path} cannot be used: {error.strerror}") from error
    if mark not in content:
        raise TlsError(f"TLS: {path} cannot be used: it has no {what} as PEM")
