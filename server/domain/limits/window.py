"""`window`: a rolling-window rate on a meter; twin of `engine/lua/include/window.lua`.

A window of length W at time t covers (t - W, t]: an entry made at t0 stops counting at exactly t0 + W. The
model keeps each instant apart; the script may merge neighbours under heavy traffic (see there).
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import ClassVar

from server.domain.limits.base import Change, Check, Ending, Kind, Limit, Look, Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Limit):
    """At most `values` units of `meter` in any window of `window_ms`.

    `returns`: a release gives back even what follows no report (the request itself). `too_large` is the code for a
    request that asks for more than the limit, which no waiting helps; empty for the usual code.
    """

    kind: ClassVar[Kind] = Kind.WINDOW

    window_ms: int
    returns: bool = False
    too_large: str = ""


@dataclass(slots=True)
class WindowCell:
    """Entries (instant, amount), oldest first, at most one per instant."""

    window_ms: int
    entries: list[tuple[int, int]] = field(default_factory=list)

    def _counting(self, now_ms: int) -> list[tuple[int, int]]:
        """The entries that count now; all are earlier by the step when the clock has stepped back behind them."""
        step_ms = max(self.entries[-1][0] - now_ms, 0) if self.entries else 0
        moved = [(at_ms - step_ms, amount) for at_ms, amount in self.entries]
        return [entry for entry in moved if entry[0] > now_ms - self.window_ms]

    def follow(self, now_ms: int) -> None:
        """Moves the entries back with the clock, so that the window is not closed until the clock is where it was."""
        if self.entries and self.entries[-1][0] > now_ms:
            self.entries = self._counting(now_ms)

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures now; `wait_ms` is when enough entries will have left."""
        entries = self._counting(now_ms)
        used = sum(amount for _, amount in entries)
        oldest_ms = next((at_ms for at_ms, amount in entries if amount), now_ms - self.window_ms)
        wait_ms = self._wait_ms(check, entries, used, now_ms)
        return Look(check.cap, used, 0, oldest_ms + self.window_ms - now_ms, wait_ms)

    def _wait_ms(self, check: Check, entries: list[tuple[int, int]], used: int, now_ms: int) -> int:
        missing = used + check.amount - check.cap
        if check.amount == 0 or missing <= 0:
            return 0
        if check.amount > check.cap:
            return -1
        for at_ms, amount in entries:
            missing -= amount
            if missing <= 0:
                return at_ms + self.window_ms - now_ms
        return -1

    def take(self, check: Check, now_ms: int) -> Look:
        """Adds an entry at `now_ms`; one of 0 where usage may follow, which counts from this instant."""
        self.entries = self._counting(now_ms)
        if self.entries and self.entries[-1][0] == now_ms:
            self.entries[-1] = (now_ms, self.entries[-1][1] + check.take)
        else:
            self.entries.append((now_ms, check.take))
        return self.look(check._replace(amount=0), now_ms)

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Brings the entry that the hold made to what was used; once it has left, nothing changes."""
        before, after = window_counts(taken, change, limit)
        if before != after and taken.at_ms > change.now_ms - self.window_ms:
            self._adjust(taken.at_ms, after - before)
        return 0

    def _adjust(self, at_ms: int, difference: int) -> None:
        """Changes the entry made at `at_ms`. The clock may have stepped back, and the entry with it: then more usage
        counts with a neighbour, and less changes nothing, so that no other's usage is taken away.
        """
        index = bisect_left(self.entries, at_ms, key=lambda entry: entry[0])
        found = index < len(self.entries) and self.entries[index][0] - at_ms <= self.window_ms // 1000
        if self.entries and (found or difference > 0):
            entry_ms, amount = self.entries[min(index, len(self.entries) - 1)]
            self.entries[min(index, len(self.entries) - 1)] = (entry_ms, max(amount + difference, 0))

    def forget(self, now_ms: int) -> int:
        """Counts nothing of what it has any more; how much that was. Its entries stay, so that a hold that made one
        settles in its own, and takes nothing from a neighbour.
        """
        counted = sum(amount for _, amount in self._counting(now_ms))
        self.entries = [(at_ms, 0) for at_ms, _ in self.entries]
        return counted

    def is_empty(self, now_ms: int) -> bool:
        """Whether nothing counts any more."""
        return not self._counting(now_ms)


def window_counts(taken: Taken, change: Change, limit: Limit) -> tuple[int, int]:
    """What the entry counted before a change and what it counts after it.

    While reports may still come the reserved amount counts, or the reported one where that is more; a settle
    or release makes it the reported one; an expiry leaves it, since nobody knows what was used.
    """
    if change.after < 0:
        returned = change.ending is Ending.RELEASE and isinstance(limit, Window) and limit.returns
        return taken.amount, 0 if returned else taken.amount
    before = max(taken.amount, change.share(taken, change.before))
    if change.ending in {Ending.SETTLE, Ending.RELEASE}:
        return before, change.share(taken, change.after)
    return before, max(taken.amount, change.share(taken, change.after))
