"""Headers of HTTP/2 as the metadata of gRPC, both ways."""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from grpc import StatusCode

from server.rpc.transports.asgi.status import CallFailed

Headers: TypeAlias = list[tuple[bytes, bytes]]
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_TRANSPORTS_OWN: Final = frozenset(
    {b"content-type", b"te", b"host", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"content-length"}
)
_BINARY: Final = b"-bin"
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_S: Final[Mapping[bytes, float]] = MappingProxyType(
    {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
)


def decoded(headers: Headers) -> Metadata:
    """What the caller sent along; a value is text, or bytes where the key ends with `-bin`."""
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name in _TRANSPORTS_OWN:
            continue
        key = name.decode("ascii")
        if name.endswith(_BINARY):
            # A proxy may have joined several values of one key.
            pairs.extend((key, _unarmoured(key, part)) for part in value.split(b","))
        else:
            pairs.append((key, value.decode("latin-1")))
    return tuple(pairs)


def _unarmoured(key: str, value: bytes) -> bytes:
    value = value.strip()
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except Base64Error as error:
        raise CallFailed(StatusCode.INTERNAL, f"the metadata {key} is not base64") from error


def tls_facts(scope: MutableMapping[str, Any]) -> Mapping[str, Iterable[bytes]]:
    """What TLS says about the caller, by grpcio's names; empty without TLS."""
    tls = scope["extensions"].get("tls")
    if tls is None:
        return {}
    found: dict[str, Iterable[bytes]] = {"transport_security_type": [b"ssl"]}
    if chain := tls["client_cert_chain"]:
        found["x509_subject"] = [tls["client_cert_name"].encode()]
        found["x509_pem_cert"] = [chain[0].encode()]
        found["x509_pem_cert_chain"] = ["".join(chain).encode()]
    return found


def encoded(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """Metadata as headers; a value is text in ASCII, or bytes where the key ends with `-bin`."""
    return [(key.encode("ascii"), _armoured(value)) for key, value in metadata]


def _armoured(value: str | bytes) -> bytes:
    if isinstance(value, str):
        return value.encode("ascii")
    return b64encode(value).rstrip(b"=")


def timeout_s(value: bytes) -> float:
    """The seconds that a `grpc-timeout` allows."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        text = f"grpc-timeout is {value.decode('latin-1')!r}; expected up to 8 digits and one of H M S m u n"
        raise CallFailed(StatusCode.INTERNAL, text)
    return int(match[1]) * _UNITS_S[match[2]]
