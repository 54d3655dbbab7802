"""How a call ends, on the wire."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from grpc import StatusCode

CODES: Final[Mapping[StatusCode, bytes]] = MappingProxyType({code: b"%d" % code.value[0] for code in StatusCode})
"""`grpc-status` of each code."""

_UNESCAPED: Final = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != ord("%"))


class CallFailed(Exception):
    """The call ends with this status, by the transport's own judgement; `headers` go with it."""

    def __init__(self, code: StatusCode, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.headers: Final = headers


def escaped(message: str) -> bytes:
    """`grpc-message`: UTF-8, percent-encoded but for printable ASCII."""
    return quote(message, safe=_UNESCAPED, errors="replace").encode("ascii")
