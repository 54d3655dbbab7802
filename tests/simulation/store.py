"""The simulated store: the real scripts, as they are sent, in a Lua 5.1 of this process over tables (`store.lua`)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from lupa import lua51

from server.engine.pipeline import Reply, Word
from server.engine.scripts import SCRIPT_NAMES, script

HERE: Final = Path(__file__).parent
START: Final = b"""
local codec, streams, store = ...
local struct, cmsgpack = assert(loadstring(codec, '@codec'))()
return assert(loadstring(store, '@store'))(struct, cmsgpack, assert(loadstring(streams, '@streams')))
"""


class Change(NamedTuple):
    """What one command changed. `value` is None where it is gone.

    `kind`: h a hash's field, s a string, e a key whose time is over, z a sorted set's member, x a stream's new entry,
    t a stream that was trimmed.
    """

    kind: str
    key: bytes
    field: bytes
    value: bytes | int | None


class SimulatedStore:
    """A store whose clock is told. Scripts are compiled once; `flush` empties it.

    `replaced` has sources to use in place of the scripts': a simulation must find what was broken in them.
    """

    takes_time = True

    def __init__(self, replaced: Mapping[str, bytes] = MappingProxyType({})) -> None:
        # Bytes stay bytes on both sides.
        lua: Any = lua51.LuaRuntime(encoding=None, register_eval=False)  # type: ignore[call-arg]  # not in its stub
        starter = lua.eval(b"function(start, ...) return assert(loadstring(start))(...) end")
        parts = starter(START, *((HERE / f"{name}.lua").read_bytes() for name in ("codec", "streams", "store")))
        self._run, self._changes, self._call = parts[b"run"], parts[b"changes"], parts[b"call"]
        self._set_time, self._flush = parts[b"set_time"], parts[b"flush"]
        for name in SCRIPT_NAMES:
            parts[b"load"](name.encode(), replaced.get(name, script(name).source))

    def flush(self) -> None:
        """Empties it."""
        self._flush()

    def set_time(self, now_ms: int, *, ttl_counts: bool) -> None:
        """The store's clock; without `ttl_counts` no key ever leaves by itself."""
        self._set_time(now_ms, ttl_counts)

    def run(self, name: str, keys: Sequence[bytes], args: Sequence[Word]) -> list[Any]:
        """A script's reply."""
        reply = self._run(name.encode(), len(keys), *keys, *args)
        values = reply if isinstance(reply, tuple) else (reply,)
        return [value if isinstance(value, int | bytes) else _python(value) for value in values]

    def command(self, *words: Word) -> Reply:
        """A plain command's reply."""
        return _python(self._call(*(word.encode() if isinstance(word, str) else word for word in words)))

    def commands(self, several: Sequence[Sequence[Word]]) -> list[Reply]:
        """The replies to several plain commands."""
        return [self.command(*words) for words in several]

    def changes(self) -> Iterator[Change]:
        """What the last script or command changed."""
        flat = self._changes()
        if flat is None:
            return
        for at in range(0, len(flat), 4):
            kind, key, field, value = flat[at : at + 4]
            yield Change(kind.decode(), key, field, None if value is False else value)


def _python(reply: Any) -> Reply:  # noqa: ANN401  # whatever Lua has
    if lua51.lua_type(reply) == "table":
        if reply[b"ok"]:
            return reply[b"ok"]
        return [_python(value) for value in reply.values()]
    return None if reply is False else reply
