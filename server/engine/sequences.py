"""Values of msgpack one behind the other, as `cmsgpack` in Lua packs and unpacks them."""

from collections.abc import Sequence
from typing import Any, Final

import msgpack

_packer = msgpack.Packer(use_bin_type=False, autoreset=True)

FIXARRAY_MOST: Final = 15


def pack(values: Sequence[object]) -> bytes:
    """Values as msgpack, one behind the other."""
    packed: bytes = _packer.pack(values)
    return packed[1:] if len(values) <= FIXARRAY_MOST else packed[3:]


def unpack(raw: bytes) -> list[Any]:
    """The values of a msgpack sequence; strings as bytes."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(raw)
    return list(unpacker)


def array_head(count: int) -> bytes:
    """What makes a sequence of so many values one msgpack array."""
    return b"\xdc" + count.to_bytes(2, "big")
