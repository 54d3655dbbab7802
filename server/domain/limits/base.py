"""What all limit kinds share: the rule as compiled from a policy, the check made of it, and what a look finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple, Protocol, Self


class Kind(IntEnum):
    """Limit kinds; the numbers are those of the wire and of stored holds, and never change."""

    GUARD = 1
    GATE = 2
    WINDOW = 3
    SLOTS = 4
    BALANCE = 5
    QUOTA = 6
    COUNT = 7


class Posture(StrEnum):
    """What becomes of a limit while the store cannot be asked."""

    OPEN = "open"
    """Each process goes on with a share of it."""
    CLOSED = "closed"
    """Whatever it applies to waits for the store."""


CLOSED_KINDS: Final = frozenset({Kind.BALANCE, Kind.QUOTA, Kind.COUNT})
"""Those behind which money or an allowance stands: closed unless the policy says otherwise."""


@dataclass(frozen=True, slots=True)
class PlanValues:
    """A value that may depend on the account's plan. None means that the limit does not apply."""

    constant: int | None = None
    by_plan: Mapping[str, int | None] | None = None

    def of(self, plan: str) -> int | None:
        """The value for an account on this plan."""
        return self.constant if self.by_plan is None else self.by_plan[plan]


UNLIMITED: Final = PlanValues()
"""No value for anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One rule of a policy.

    `when` maps a dimension to the values for which the rule applies; `actions` is None for all actions.
    `scope` lists the dimensions that separate its cells. `cell` names its state: it depends on id, kind, meter,
    scope and window length, so that changing one of those starts a new cell and changing a value does not. Actions in
    `optional_for` need not name the scope's dimensions, and then do not fall under the rule. For an action in `room`
    the rule looks whether so many units would fit, and takes nothing. `unless` is a flag; the rule is not for accounts
    that have it. `lifted_by` is a flag, too: accounts that have it are counted, and never refused. `posture` None is
    that of its kind.
    """

    kind: ClassVar[Kind]

    id: str
    label: str
    refuse: str
    meter: str = ""
    actions: frozenset[str] | None = None
    when: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    scope: tuple[str, ...] = ()
    optional_for: frozenset[str] = frozenset()
    values: PlanValues = UNLIMITED
    room: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    shadow: bool = False
    unless: str = ""
    lifted_by: str = ""
    cell: str = ""
    posture: Posture | None = None

    @property
    def is_closed(self) -> bool:
        """Whether what it applies to needs the store that money stands on."""
        if self.posture is not None:
            return self.posture is Posture.CLOSED
        return self.kind in CLOSED_KINDS

    def applies(self, action: str, scope: Mapping[str, str]) -> bool:
        """Whether a request for `action` with these dimensions falls under the rule."""
        if self.actions is not None and action not in self.actions:
            return False
        if action in self.optional_for and any(name not in scope for name in self.scope):
            return False
        return all(scope.get(name) in allowed for name, allowed in self.when.items())


class CycleTerms(NamedTuple):
    """A cycle, from `start_ms` (inclusive) to `end_ms` (exclusive), and what a quota allows in it beyond its limit:
    `overage` units at `price` millionths of a dollar each, then anything for `grace_ms` after exhaustion.
    """

    start_ms: int
    end_ms: int
    overage: int
    grace_ms: int
    price: int


class QueueForm(NamedTuple):
    """A pool's queue as it applies to one kind of request: at most `depth` wait for the places of `cells`, which are
    those of all pools that share them; `cell` is this one's. A ticket lasts `ticket_ms`.
    """

    depth: int
    cell: str
    cells: tuple[str, ...]
    ticket_ms: int


class Check(NamedTuple):
    """One limit with state, as it applies to one request.

    `place` is the limit's index in the policy's list, `scope` the values of the limit's dimensions in order.
    `amount` must fit below `cap`; `take` is what a grant takes (0 when the policy only asks for room).
    `settles` tells whether the take follows the reported usage of the limit's meter. A quota has `terms`, a pool where
    requests wait a `queue`, a balance may have `marks` to tell of; `shown` is a quota's cap as people read it, which
    differs where its meter is sampled.
    """

    place: int
    limit: Limit
    scope: tuple[str, ...]
    amount: int
    take: int
    cap: int
    settles: bool
    terms: CycleTerms | None = None
    queue: QueueForm | None = None
    shown: int = 0
    marks: tuple[int, ...] = ()


QUEUES: Final = -2
"""Of a look: what was asked for does not fit, and there is a place in the queue."""


class Look(NamedTuple):
    """A limit's figures at one instant; after a grant they include what it took.

    `wait_ms`: 0 fits; above 0 blocks for that long; -1 blocks, and the limit cannot say for how long; QUEUES.
    `reset_ms`: time until `used` next falls by itself, 0 for an empty cell, -1 where time changes nothing.
    """

    cap: int
    used: int
    held: int
    reset_ms: int
    wait_ms: int

    @property
    def fits(self) -> bool:
        """Whether the amount asked for was there."""
        return self.wait_ms == 0


class QueueLook(Look):
    """The figures of a pool with a queue; `queued` requests wait, at most `queue_cap` may."""

    queued: int
    queue_cap: int

    def __new__(  # noqa: PLR0913, PLR0917  # the figures
        cls, cap: int, used: int, held: int, reset_ms: int, wait_ms: int, queued: int, queue_cap: int
    ) -> Self:
        """As a Look, with two figures beside it."""
        look = super().__new__(cls, cap, used, held, reset_ms, wait_ms)
        look.queued, look.queue_cap = queued, queue_cap
        return look

    def __eq__(self, other: object) -> bool:
        """Whether all figures are equal."""
        return isinstance(other, QueueLook) and self.figures == other.figures

    def __ne__(self, other: object) -> bool:
        """The contrary."""
        return not self == other

    def __hash__(self) -> int:
        """As equality wants it."""
        return hash(self.figures)

    @property
    def figures(self) -> tuple[int, ...]:
        """All of them."""
        return (*self, self.queued, self.queue_cap)

    def unblocked(self) -> "QueueLook":
        """The same for a request that is past the queue."""
        return QueueLook(self.cap, self.used, self.held, self.reset_ms, 0, self.queued, self.queue_cap)


class Draw(NamedTuple):
    """Units that came from a balance's grant of this source and expiry."""

    source: int
    expires_at_ms: int
    units: int


class Taken(NamedTuple):
    """What a hold took from one cell.

    `base` is where this part starts within the meter's total (a raise adds a part), `last` whether it is the
    part that carries what is used beyond the reserved total. `cycle_ms` is the start of the cycle that it was taken
    in, for a quota. `draws` say which grants of a balance it came from, first charged first; without any it came from
    the balance as one sum. `marks` are the balance's thresholds for whoever took it.
    """

    amount: int
    at_ms: int
    base: int
    last: bool
    cycle_ms: int = 0
    draws: tuple[Draw, ...] = ()
    marks: tuple[int, ...] = ()


class Ending(IntEnum):
    """Why a hold's take is changed."""

    REPORT = 1
    SETTLE = 2
    RELEASE = 3
    EXPIRE = 4


class Change(NamedTuple):
    """A step in a hold's life, seen from one cell.

    `before` and `after` are the meter's reported totals; for a take that follows no report both are -1. `live`
    is whether the hold still kept its take.
    """

    ending: Ending
    before: int
    after: int
    live: bool
    now_ms: int

    def share(self, taken: Taken, total: int) -> int:
        """The part of a meter's total that falls on `taken`."""
        beyond = max(total - taken.base, 0)
        return beyond if taken.last else min(beyond, taken.amount)


class Cell(Protocol):
    """The plain model of one limit's state; the memory engine's and the judge of the scripts."""

    def look(self, check: Check, now_ms: int) -> Look:
        """The figures before anything is taken."""

    def follow(self, now_ms: int) -> None:
        """Notes, when a check blocks, that the clock has stepped back."""

    def take(self, check: Check, now_ms: int) -> Look:
        """Takes `check.take`; the figures after it."""

    def finish(self, taken: Taken, change: Change, limit: Limit) -> int:
        """Gives back, keeps or charges `taken`; returns the units that could not be collected."""

    def is_empty(self, now_ms: int) -> bool:
        """Whether the cell may be forgotten."""
