"""What a tenant, a hold and a tombstone take of the store's memory.

Two measures, of which the larger counts: `MEMORY USAGE` of every key, and by how much `used_memory` (without the
buffers of clients) grows, which has in it what the store spends beside the keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gateway import Gateway
from benchmarks.processes import Store, store
from benchmarks.standard import Asking, tenants
from benchmarks.store_calls import watched

HOLDS_EACH: Final = 4
"""Active holds of each tenant where the memory of holds is measured."""

_SCANNED: Final = 5000
_WINDOWS, _HOLDS = "w", "h"


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of one thing, by both measures."""

    of_keys: float
    grown: float

    @property
    def larger(self) -> int:
        """What counts."""
        return round(max(self.of_keys, self.grown))


@dataclass(frozen=True, slots=True)
class Memory:
    """An idle tenant with five limits: account, standing cells, and windows with one entry. A hold that is its tenant's
    only one, one of four, and a tombstone; all with ids of 26 characters.
    """

    tenant: Bytes
    only_hold: Bytes
    hold: Bytes
    tombstone: Bytes


@dataclass(frozen=True, slots=True)
class _State:
    """What is in the store: bytes by kind of key, and in all."""

    kinds: Mapping[str, int]
    used: int

    def since(self, before: "_State", count: int, *, without: str = "") -> Bytes:
        """What came since, for each of `count`; a kind that grew for another reason is left out."""
        grown = {kind: size - before.kinds.get(kind, 0) for kind, size in self.kinds.items()}
        other = grown.get(without, 0)
        return Bytes((sum(grown.values()) - other) / count, (self.used - before.used - other) / count)


async def measure(folder: Path, number: int) -> Memory:
    """With so many tenants."""
    with store(folder) as behind:
        async with watched(behind.url) as calls:
            gateway = Gateway(calls)
            await gateway.create(["first"])
            first = Asking(["first"]).take(1)
            await gateway.reserve(first)
            await gateway.settle(first)
            empty = _state(behind)
            names = tenants(number)
            asking = Asking(names)
            await gateway.create(names)
            asks = asking.take(number)
            await gateway.reserve(asks)
            await gateway.settle(asks)
            settled = _state(behind)
            _drop_holds(behind)
            idle = _state(behind)
            await gateway.reserve(asking.take(number))
            held = _state(behind)
            await gateway.reserve(asking.take(number * (HOLDS_EACH - 1)))
            crowded = _state(behind)
    return Memory(
        tenant=idle.since(empty, number),
        only_hold=held.since(idle, number, without=_WINDOWS),
        hold=crowded.since(idle, number * HOLDS_EACH, without=_WINDOWS),
        tombstone=settled.since(idle, number),
    )


def _state(behind: Store) -> _State:
    keys = _keys(behind)
    sizes = behind.commands([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys])
    kinds: dict[str, int] = {}
    for key, size in zip(keys, sizes, strict=True):
        kind = _kind(key)
        kinds[kind] = kinds.get(kind, 0) + size
    return _State(kinds, _used(behind))


def _kind(key: bytes) -> str:
    """The word behind a key's hash tag; an index of tenants counts as `due`, as the lists of holds by lease end do."""
    return key.rpartition(b"}:")[2].split(b":")[0].decode()


def _keys(behind: Store) -> list[bytes]:
    keys: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, found = behind.command("SCAN", cursor, "COUNT", _SCANNED)
        keys += found
        if cursor == b"0":
            return list(dict.fromkeys(keys))  # a scan may name a key twice


def _used(behind: Store) -> int:
    lines = behind.command("INFO", "memory").decode().splitlines()
    figures = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(figures["used_memory"]) - int(figures["mem_clients_normal"])


def _drop_holds(behind: Store) -> None:
    behind.commands([("DEL", key) for key in _keys(behind) if _kind(key) == _HOLDS])
