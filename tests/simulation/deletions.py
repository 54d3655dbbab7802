"""The deletion of tenants, step by step: what it begins with, and what it leaves."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from server.engine.pipeline import Reply, Word
from server.engine.redis_hands import BEGIN, END
from server.engine.sequences import unpack
from tests.simulation.books import Books, Violation
from tests.simulation.store import Change


class Commanded(Protocol):
    """A store that answers plain commands."""

    def command(self, *words: Word) -> Reply:
        """A command's reply."""

    def changes(self) -> Iterable[Change]:
        """What it changed."""


class Deletions:
    """Those under way: `closed` has the tenants that take nothing new."""

    def __init__(self, store: Commanded, books: Books) -> None:
        self._store = store
        self._books = books
        self.closed: Final[set[str]] = set()

    def look_at(self, name: str, cells: bytes, asked: Word, reply: Sequence[Any], *, changed: bool) -> bool:
        """Looks at a step of a deletion, which it was asked for in these words; whether it has just begun."""
        _, phase, *_ = unpack(asked if isinstance(asked, bytes) else str(asked).encode())
        prefix = cells.partition(b"}:")[0]
        if reply[0] != 1:
            if changed:
                raise Violation(f"a deletion of {name} answered {reply!r} and changed something")
            return False
        if phase == BEGIN:
            self.closed.add(name)
            self._books.close(prefix, lambda key: bool(self._ask("EXISTS", key)))
        elif phase == END:
            self.closed.discard(name)
            keys = self._ask("KEYS", "*")
            assert isinstance(keys, list)
            if left := [key for key in keys if key.startswith(prefix + b"}:")]:
                raise Violation(f"{name} is deleted, and has {left}")
            self._books.forget(prefix)
        return bool(phase == BEGIN)

    def _ask(self, *words: Word) -> Reply:
        """A command's reply; keys whose time is over leave when they are looked at."""
        reply = self._store.command(*words)
        self._books.check("", (), self._store.changes(), None)
        return reply
