"""Values of msgpack one behind the other, as `cmsgpack` in Lua packs and unpacks them."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

_Value = TypeVar("_Value")

_packer = msgpack.Packer(use_bin_type=False, autoreset=True)

FIXARRAY_MOST: Final = 15


def pack(values: Sequence[object]) -> bytes:
    """Values as msgpack, one behind the other."""
    packed: bytes = _packer.pack(values)
    return packed[1:] if len(values) <= FIXARRAY_MOST else packed[3:]


pack_one: Final[Callable[[object], bytes]] = _packer.pack
"""One value as msgpack."""


def picked(places: Sequence[int]) -> Callable[[Sequence[_Value]], tuple[_Value, ...]]:
    """What picks from a sequence what stands in these places: as `itemgetter`, which makes no tuple of a single one."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)


class Gap(NamedTuple):
    """In place of a value that differs: where it stands among those that are filled in."""

    place: int


class Blank:
    """A sequence of which most values are the same each time: they are packed once, and the gaps are filled in."""

    __slots__ = ("_parts", "_picked")

    def __init__(self, values: Sequence[object]) -> None:
        self._parts: list[bytes] = []
        places: list[int] = []
        same: list[object] = []
        for value in values:
            if isinstance(value, Gap):
                self._parts += (pack(same), b"")
                places.append(value.place)
                same = []
            else:
                same.append(value)
        self._parts.append(pack(same))
        self._picked = picked(places)

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The sequence with these values, each packed, in the gaps that are theirs."""
        parts = self._parts.copy()
        parts[1::2] = self._picked(values)
        return b"".join(parts)


def unpack(raw: bytes) -> list[Any]:
    """The values of a msgpack sequence; strings as bytes."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(raw)
    return list(unpacker)


def array_head(count: int) -> bytes:
    """What makes a sequence of so many values one msgpack array."""
    return b"\xdc" + count.to_bytes(2, "big")
