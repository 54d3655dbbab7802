"""What must hold of those who wait: first come, first served; never above the places; no place idle while terms are
known by which it could be given.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgpack

from server.domain.operation import TenantRef
from server.domain.queue import QueueTerms
from server.engine.keys import TenantKeys, tenant_keys
from server.engine.pipeline import Reply, Word
from tests.simulation.asked import TENANTS
from tests.simulation.books import Violation
from tests.store_state import StoredHold, held_in

PROMOTED: Final = 8

FREE_AT: Final = {("reserve", 6): 4, ("ticket", 1): 6}
"""Where replies by which somebody waits say that a place is free nevertheless."""


class Commanded(Protocol):
    """A store that answers plain commands."""

    def command(self, *words: Word) -> Reply:
        """A command's reply."""


Terms = Callable[[str], QueueTerms]
"""The queues of a tenant as they stand now, by its policy and its account."""


class Lines:
    """The queues of all tenants, as they were after the last script."""

    def __init__(self, store: Commanded, cells: Sequence[str], terms: Terms, clock: Callable[[], int]) -> None:
        self._store = store
        self._cells = cells
        self._terms = terms
        self._clock = clock
        self._lines: dict[str, list[tuple[float, str, bytes]]] = {name: [] for name in TENANTS}
        """Of each tenant, by arrival: arrival, cell, hold."""
        self._left_to_reap: set[str] = set()
        """Tenants of whom a script said that there are turns to make: whoever asked it reaps, unless it dies before."""

    def owes_turns(self, name: str) -> bool:
        """Whether somebody may have a turn from now on: something is overdue, or only new terms can tell."""
        tenant = tenant_keys(TenantRef("lab", name))
        return bool(self._lines[name]) and (not self._terms_are_current(tenant) or self._is_overdue(tenant))

    def forget(self, name: str) -> None:
        """A tenant is deleted, and with it who waits for it."""
        self._lines[name] = []
        self._left_to_reap.discard(name)

    def overtakes_nobody(self, name: str, cells: Sequence[str]) -> None:
        """A newcomer was given a place of these pools, in front of which nobody may have waited."""
        if passed := [hold_id for _, cell, hold_id in self._lines[name] if cell in cells]:
            raise Violation(f"a newcomer was given a place of {cells}, and {passed} wait for one")

    def check(self, name: str, script: str, reply: Sequence[Any]) -> None:
        """Looks at a tenant's queues after a script."""
        tenant = tenant_keys(TenantRef("lab", name))
        if (script, reply[0]) in FREE_AT and reply[FREE_AT[script, reply[0]]]:
            self._left_to_reap.add(name)
        elif script == "reap" and not reply[0]:
            self._left_to_reap.discard(name)
        before, now = self._lines[name], self._read(tenant)
        self._lines[name] = now
        if not before and not now:
            return
        terms = self._terms(name)
        self._arrivals_follow(before, now)
        turns = self._turns_made(tenant, terms, before, now)
        self._places_are_kept(tenant, terms, now, turns, may_idle=name in self._left_to_reap)

    def _read(self, tenant: TenantKeys) -> list[tuple[float, str, bytes]]:
        found = []
        for cell in self._cells:
            raw = self._store.command("ZRANGE", tenant.prefix + b"q:" + cell.encode(), 0, -1, "WITHSCORES")
            assert isinstance(raw, list)
            found += [(float(score), cell, member) for member, score in zip(raw[::2], raw[1::2], strict=True)]
        return sorted(found)

    def _arrivals_follow(
        self, before: Sequence[tuple[float, str, bytes]], now: Sequence[tuple[float, str, bytes]]
    ) -> None:
        """Who came last stands behind all others, and nobody moves."""
        known = {hold_id: arrival for arrival, _, hold_id in before}
        last = before[-1][0] if before else 0
        for arrival, cell, hold_id in now:
            if known.get(hold_id, arrival) != arrival or (hold_id not in known and arrival <= last):
                raise Violation(f"{hold_id!r} stands at {arrival} in {cell}, where there stood {before}")

    def _turns_made(
        self,
        tenant: TenantKeys,
        terms: QueueTerms,
        before: Sequence[tuple[float, str, bytes]],
        now: Sequence[tuple[float, str, bytes]],
    ) -> Sequence[tuple[str, bytes]]:
        """Who has been given a place, and of which cell: each was the first of those who share its places."""
        waiting = {hold_id for _, _, hold_id in now}
        gone = [(cell, hold_id) for _, cell, hold_id in before if hold_id not in waiting]
        turns = [(cell, hold_id) for cell, hold_id in gone if self._state(tenant, hold_id) == PROMOTED]
        for cell, hold_id in turns:
            group = next(group for group in terms.groups if cell in group.cells)
            line = [other for _, own, other in before if own in group.cells]
            passed = [other for other in line[: line.index(hold_id)] if other in waiting]
            if passed:
                raise Violation(f"it is the turn of {hold_id!r} in {cell}, and {passed} came before")
        return turns

    def _places_are_kept(
        self,
        tenant: TenantKeys,
        terms: QueueTerms,
        now: Sequence[tuple[float, str, bytes]],
        turns: Sequence[tuple[str, bytes]],
        *,
        may_idle: bool,
    ) -> None:
        """Nobody is given a place that there is not, and none is free while somebody waits for it."""
        for cap, cells in terms.groups:
            raws = self._store.command("HMGET", tenant.cells, *cells)
            assert isinstance(raws, list)
            taken = sum(held_in(raw) for raw in raws if raw)
            if taken > cap and any(cell in cells for cell, _ in turns):
                raise Violation(f"{turns} have got places of {cells}: {taken} of {cap} are taken")
            waiting = [hold_id for _, cell, hold_id in now if cell in cells]
            if may_idle or not waiting or taken >= cap:
                continue
            if self._terms_are_current(tenant) and not self._is_overdue(tenant):
                raise Violation(f"{waiting} wait, and {taken} of {cap} places of {cells} are taken")

    def _state(self, tenant: TenantKeys, hold_id: bytes) -> int:
        raw = self._store.command("GET", tenant.prefix + b"h:" + hold_id)
        return StoredHold.parse(raw).state if isinstance(raw, bytes) else 0

    def _terms_are_current(self, tenant: TenantKeys) -> bool:
        raw = self._store.command("GET", tenant.prefix + b"pools")
        if not isinstance(raw, bytes):
            return False
        unpacker = msgpack.Unpacker(raw=True)
        unpacker.feed(raw)
        version, from_ms, until_ms, *_ = unpacker
        stored = self._store.command("HGET", tenant.cells, "v")
        return version == int(stored or 0) and bool(from_ms <= self._clock() < until_ms)

    def _is_overdue(self, tenant: TenantKeys) -> bool:
        first = self._store.command("ZRANGE", tenant.due, 0, 0, "WITHSCORES")
        return bool(first) and float(first[1]) <= self._clock()
