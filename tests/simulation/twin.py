"""A simulated store and a real one side by side: every call is made on both, and both must answer the same."""

import socket
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis

from server.engine.pipeline import Reply, Word
from server.engine.scripts import script
from tests.simulation.books import Violation
from tests.simulation.store import Change, SimulatedStore
from tests.store_state import Snapshot, snapshot
from tests.stores import RunningStore
from tests.waiting import PATIENCE_S


class TwinStore:
    """The simulated store as long as the real one agrees. The real one's clock cannot be told, and no key may leave."""

    takes_time = False

    def __init__(self, real: RunningStore) -> None:
        self._simulated = SimulatedStore()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(real.url.removeprefix("unix://"))
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self.real = real

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def flush(self) -> None:
        """Empties both."""
        self._simulated.flush()
        self._really("FLUSHALL")

    def set_time(self, now_ms: int, *, ttl_counts: bool) -> None:
        """The simulated one's alone."""
        assert not ttl_counts
        self._simulated.set_time(now_ms, ttl_counts=False)

    def run(self, name: str, keys: Sequence[bytes], args: Sequence[Word]) -> list[Any]:
        """Both replies, which must be equal."""
        simulated = self._simulated.run(name, keys, args)
        real = self._really("EVALSHA", script(name).sha, len(keys), *keys, *args)
        if isinstance(real, hiredis.ReplyError) and str(real).startswith("NOSCRIPT"):
            real = self._really("EVAL", script(name).source, len(keys), *keys, *args)
        if real != simulated:
            raise Violation(f"{name}{(*keys, *args)!r}\n  is answered {real!r}\n  and simulated as {simulated!r}")
        return simulated

    def command(self, *words: Word) -> Reply:
        """Asked of the simulated one: in what the two have, they are compared at the end."""
        return self._simulated.command(*words)

    def commands(self, several: Sequence[Sequence[Word]]) -> list[Reply]:
        """As above."""
        return self._simulated.commands(several)

    def changes(self) -> Iterable[Change]:
        """What the last script changed."""
        return self._simulated.changes()

    def must_be_equal(self) -> None:
        """Every key of one is a key of the other, with equal content; only ids of notes are a store's own."""
        simulated, real = (_without_ids(snapshot(store)) for store in (self._simulated, self.real))
        if simulated != real:
            odd = {key for key in simulated.keys() | real.keys() if simulated.get(key) != real.get(key)}
            raise Violation(f"{[(key, real.get(key), simulated.get(key)) for key in sorted(odd)]}")

    def _really(self, *words: Word) -> Any:  # noqa: ANN401  # whatever the store answers
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows one word only
        while (reply := self._reader.gets()) is Ellipsis:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the store hung up")
            self._reader.feed(data)
        return reply


def _without_ids(state: Snapshot) -> Snapshot:
    """Without the ids of notes, and with each allocation's cells in no order: a script walks them in a table's."""
    told: Snapshot = {}
    for key, (kind, content, has_ttl) in state.items():
        shown: object = content
        if key.endswith(b"}:note"):
            shown = [words for _, words in content]  # type: ignore[attr-defined]  # a stream
        elif key.endswith(b"}:alloc"):
            shown = {name: sorted(raw) for name, raw in content.items()}  # type: ignore[attr-defined]  # a hash
        told[key] = kind, shown, has_ttl
    return told
