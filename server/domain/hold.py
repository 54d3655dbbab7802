"""A hold's life: its states, what each operation does in each of them, and the totals it carries.

`TRANSITIONS` is the one table; `docs/hold-lifecycle.md` shows it and a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias


class State(IntEnum):
    """Where a hold is; the numbers are stored and never change."""

    ACTIVE = 1
    SETTLED = 2
    RELEASED = 3
    EXPIRED = 4
    SETTLED_LATE = 5
    DONE = 6
    QUEUED = 7
    PROMOTED = 8
    LEFT = 9


class Event(StrEnum):
    """What may happen to a hold."""

    REPORT = "Settle(final=false)"
    SETTLE = "Settle(final)"
    RELEASE = "Release"
    EXTEND = "Extend"
    EXPIRE = "lease ends"
    TURN = "its turn comes"


class Rule(StrEnum):
    """What an event does where it makes no transition."""

    SAME = "same answer if equal, else FAILED_PRECONDITION"
    IGNORED = "OK, applied=false"
    REFUSED = "FAILED_PRECONDITION"


TRANSITIONS: Final[Mapping[tuple[State, Event], State | Rule]] = MappingProxyType(
    {
        (State.ACTIVE, Event.REPORT): State.ACTIVE,
        (State.ACTIVE, Event.SETTLE): State.SETTLED,
        (State.ACTIVE, Event.RELEASE): State.RELEASED,
        (State.ACTIVE, Event.EXTEND): State.ACTIVE,
        (State.ACTIVE, Event.EXPIRE): State.EXPIRED,
        (State.EXPIRED, Event.REPORT): State.EXPIRED,
        (State.EXPIRED, Event.SETTLE): State.SETTLED_LATE,
        (State.EXPIRED, Event.RELEASE): Rule.IGNORED,
        (State.EXPIRED, Event.EXTEND): Rule.REFUSED,
        (State.SETTLED, Event.REPORT): Rule.SAME,
        (State.SETTLED, Event.SETTLE): Rule.SAME,
        (State.SETTLED, Event.RELEASE): Rule.IGNORED,
        (State.SETTLED, Event.EXTEND): Rule.REFUSED,
        (State.SETTLED_LATE, Event.REPORT): Rule.SAME,
        (State.SETTLED_LATE, Event.SETTLE): Rule.SAME,
        (State.SETTLED_LATE, Event.RELEASE): Rule.IGNORED,
        (State.SETTLED_LATE, Event.EXTEND): Rule.REFUSED,
        (State.RELEASED, Event.REPORT): Rule.REFUSED,
        (State.RELEASED, Event.SETTLE): Rule.REFUSED,
        (State.RELEASED, Event.RELEASE): Rule.IGNORED,
        (State.RELEASED, Event.EXTEND): Rule.REFUSED,
        (State.DONE, Event.REPORT): Rule.IGNORED,
        (State.DONE, Event.SETTLE): Rule.IGNORED,
        (State.DONE, Event.RELEASE): Rule.IGNORED,
        (State.DONE, Event.EXTEND): Rule.REFUSED,
        (State.QUEUED, Event.REPORT): Rule.REFUSED,
        (State.QUEUED, Event.SETTLE): Rule.REFUSED,
        (State.QUEUED, Event.RELEASE): State.LEFT,
        (State.QUEUED, Event.EXTEND): State.QUEUED,
        (State.QUEUED, Event.EXPIRE): State.LEFT,
        (State.QUEUED, Event.TURN): State.PROMOTED,
        (State.PROMOTED, Event.REPORT): Rule.REFUSED,
        (State.PROMOTED, Event.SETTLE): Rule.REFUSED,
        (State.PROMOTED, Event.RELEASE): State.LEFT,
        (State.PROMOTED, Event.EXTEND): State.ACTIVE,
        (State.PROMOTED, Event.EXPIRE): State.LEFT,
        (State.LEFT, Event.REPORT): Rule.REFUSED,
        (State.LEFT, Event.SETTLE): Rule.REFUSED,
        (State.LEFT, Event.RELEASE): Rule.IGNORED,
        (State.LEFT, Event.EXTEND): Rule.REFUSED,
    }
)


WAITING: Final = frozenset({State.QUEUED, State.PROMOTED})
"""States of a hold whose request waits for its place: in the queue, or for the place to be claimed."""

LIVE: Final = WAITING | {State.ACTIVE}
"""States of a hold that keeps something, and will end by itself."""


class MeterTotals(NamedTuple):
    """One meter of a hold: units reserved, reported (None before any report), and not collected."""

    reserved: int
    reported: int | None
    uncollected: int


@dataclass(frozen=True, slots=True)
class Fraction:
    """A delivered share: 0 <= delivered <= reserved, reserved >= 1."""

    delivered: int
    reserved: int

    def of(self, amount: int) -> int:
        """That share of an amount, rounded down, yet at least 1 when anything was delivered and anything held."""
        whole, rest = divmod(amount, self.reserved)
        share = whole * self.delivered + rest * self.delivered // self.reserved
        return max(share, 1) if self.delivered and amount else share


Delivered: TypeAlias = Mapping[str, int] | Fraction | tuple[str, ...] | None
"""What a caller says was delivered: totals by meter, a share, ids of items, or nothing said."""


@dataclass(frozen=True, slots=True)
class HoldNote:
    """What a hold remembers of its request, for repeats, raises and operators.

    `item_prices` has units by meter of each priced item, fixed when the hold was made. `timed_ms` is how long a hold
    whose time is paid may last from its start (0: it is not), which `connection` made at `started_at_ms` (0: not yet).
    """

    action: str
    policy_version: str
    scope: Mapping[str, str]
    item_prices: Mapping[str, Mapping[str, int]]
    timed_ms: int = 0
    started_at_ms: int = 0
    connection: str = ""


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold or tombstone as stored. Times are milliseconds since the epoch; those of the lease are 0 without one, and
    once the hold is settled or released.
    """

    hold_id: str
    state: State
    fingerprint: bytes
    created_at_ms: int
    lease_ends_at_ms: int
    longest_ends_at_ms: int
    lease_ms: int
    meters: Mapping[str, MeterTotals]
    note: HoldNote
