"""The use cases of notices: what a tenant's people are to be told, listed and watched."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import uniform
from typing import Final, NamedTuple

from server.accounting import page_of
from server.domain.errors import InvalidRequestError, OverloadedError, StoreUnavailableError
from server.domain.limits import Limit
from server.domain.note import Note
from server.domain.operation import TenantRef
from server.domain.policy import Policy
from server.engine.base import Engine
from server.gate import QuotaGate

NOTE_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII)
"""How the ids of notes are written: two numbers below 2^64."""

MOST_WATCHES: Final = 1024
"""Watches that this process keeps open; each is a call in work, and decisions must find room beside them."""

PAGE: Final = 100
"""Notes that a watch reads at once."""

READ_AGAIN_S: Final = 30.0
"""How long a watch trusts that it would have been woken."""

STORE_PAUSE_S: Final = 1.0
"""After a read that the store did not answer."""


class Notification(NamedTuple):
    """A note, with the id of the limit that it is about and the values of its dimensions."""

    note: Note
    limit_id: str
    scope: Mapping[str, str]


class Notices:
    """One per process. Watches are cheap: an event each, one subscription for all of them, and each reads on its own,
    so that a slow one holds nobody up.
    """

    def __init__(self, engine: Engine, gate: QuotaGate) -> None:
        self._engine = engine
        self._gate = gate
        self._waiting: defaultdict[TenantRef, set[asyncio.Event]] = defaultdict(set)
        self._over = False

    @property
    def open_watches(self) -> int:
        """Watches that have not ended."""
        return sum(map(len, self._waiting.values()))

    async def listed(
        self, ref: TenantRef, page_size: int, page_token: str, *, within_s: float
    ) -> tuple[Sequence[Notification], str]:
        """A page of notifications, the oldest first, and the token of the next page."""
        policy, ref = self._gate.resolve(ref)
        count = page_of(page_size)
        if not _is_place(page_token):
            raise InvalidRequestError.of("page_token", "is not a token that ListNotifications gave; start without one")
        notes = await self._engine.notes(ref, page_token, count + 1, within_s)
        listed = told_by(policy, notes[:count])
        return listed, listed[-1].note.note_id if len(notes) > count else ""

    async def watch(self, ref: TenantRef, after_id: str, *, within_s: float) -> AsyncGenerator[Notification, None]:
        """Notifications behind the one of this id (empty: all that are kept), and then each as it is noted, until
        `end_watches`. A store that does not answer for a while only makes them late.
        """
        _, ref = self._gate.resolve(ref)
        if not _is_place(after_id):
            raise InvalidRequestError.of("after_id", "is not the id of a notification; start without one")
        if self.open_watches >= MOST_WATCHES:
            raise OverloadedError(f"{MOST_WATCHES} watches are open here, as many as a server process keeps; try again")
        with self._watching(ref) as woken:
            notes: Sequence[Note] = await self._engine.notes(ref, after_id, PAGE, within_s)
            while not self._over:
                for notification in told_by(self._gate.policy(ref.policy), notes):
                    yield notification
                    after_id = notification.note.note_id
                if len(notes) < PAGE:
                    await self._pause(woken, READ_AGAIN_S)
                woken.clear()
                notes = await self._read_on(ref, after_id, within_s)

    def end_watches(self) -> None:
        """Ends every watch, now and to come: the server stops."""
        self._over = True
        self._wake(None)

    async def _read_on(self, ref: TenantRef, after_id: str, within_s: float) -> Sequence[Note]:
        while not self._over:
            try:
                return await self._engine.notes(ref, after_id, PAGE, within_s)
            except StoreUnavailableError:
                await asyncio.sleep(uniform(0.5, 1) * STORE_PAUSE_S)  # noqa: S311  # jitter, not a secret
        return ()

    async def _pause(self, woken: asyncio.Event, longest_s: float) -> None:
        """Until woken, or until it is time to see whether a wake-up was lost."""
        try:
            async with asyncio.timeout(longest_s * uniform(0.5, 1)):  # noqa: S311  # jitter, not a secret
                await woken.wait()
        except TimeoutError:
            return

    @contextmanager
    def _watching(self, ref: TenantRef) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        if not self._waiting:
            self._engine.wakes.listen(self._wake)
        self._waiting[ref].add(woken)
        try:
            yield woken
        finally:
            self._waiting[ref].discard(woken)
            if not self._waiting[ref]:
                del self._waiting[ref]
            if not self._waiting:
                self._engine.wakes.forget(self._wake)

    def _wake(self, ref: TenantRef | None) -> None:
        events = self._waiting.get(ref, ()) if ref is not None else [e for each in self._waiting.values() for e in each]
        for event in events:
            event.set()


def told_by(policy: Policy | None, notes: Sequence[Note]) -> list[Notification]:
    """Notes by the limits of a policy; a limit that it no longer has is named by its cell, without dimensions."""
    limits = {limit.cell: limit for limit in policy.limits if limit.cell} if policy is not None else {}
    return [_notification(note, limits.get(note.cell)) for note in notes]


def _is_place(note_id: str) -> bool:
    """Whether it is the id of a note, or empty for the start."""
    parts = NOTE_ID.fullmatch(note_id)
    return not note_id or (parts is not None and all(int(number) < 2**64 for number in parts.groups(default="0")))


def _notification(note: Note, limit: Limit | None) -> Notification:
    if limit is None:
        return Notification(note, note.cell.partition("~")[0], {})
    return Notification(note, limit.id, dict(zip(limit.scope, note.scope, strict=True)))
