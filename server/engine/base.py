"""What every engine offers. One conformance suite (tests/scenarios, tests/property) runs on all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from server.domain.account import Account
from server.domain.act import Act
from server.domain.hold import Delivered, HoldView, MeterTotals, State
from server.domain.ledger import Cause, LedgerEntry
from server.domain.limits.balance import Balance, GrantSource, Marks
from server.domain.limits.base import Look
from server.domain.limits.quota import CycleUse
from server.domain.note import Note
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm, Plan
from server.domain.queue import Ticket
from server.domain.reconcile import BalanceState
from server.domain.refill import Refill
from server.domain.timed import Start
from server.domain.units import FOREVER_MS
from server.engine.books import Books
from server.engine.feed import Feed
from server.engine.hands import Hands
from server.engine.wakes import Wakes
from server.engine.walks import Walks

if TYPE_CHECKING:
    from server.engine.queues import Queues


class Granted(NamedTuple):
    """Everything was taken; `looks` in the order of `plan.checks`. The lease's end is 0 without a lease.

    `degraded`: from this process's allowance, as the store is gone; there are no looks.
    """

    now_ms: int
    looks: tuple[Look, ...]
    lease_ends_at_ms: int
    degraded: bool = False


class Refused(NamedTuple):
    """Nothing was taken."""

    now_ms: int
    looks: tuple[Look, ...]


class Stale(NamedTuple):
    """The plan was made for another account version or another time: plan again with these."""

    now_ms: int
    account: Account | None


class Queued(NamedTuple):
    """Everything was taken but a place: the request waits in its queue at this position, from 1; its ticket is kept for
    `lasts_ms` unless it is asked for again.
    """

    now_ms: int
    looks: tuple[Look, ...]
    position: int
    lasts_ms: int


class Replayed(NamedTuple):
    """The id is known: this is its hold or tombstone. Whether the content is equal is the caller's to judge.

    `looks` are the figures of its grant as the plan asks for them; none where they no longer mean the same.
    """

    now_ms: int
    hold: HoldView
    looks: tuple[Look, ...]
    degraded: bool = False


class Looked(NamedTuple):
    """Figures, nothing taken."""

    now_ms: int
    looks: tuple[Look, ...]


class Cycles(NamedTuple):
    """Figures, and the cycles that each quota of the plan remembers, the latest first, in the order of the checks."""

    now_ms: int
    looks: tuple[Look, ...]
    cycles: tuple[Sequence[CycleUse], ...]


class Extended(NamedTuple):
    """The lease was renewed; `raised` tells whether the raise that was asked for (if any) fits."""

    now_ms: int
    hold: HoldView
    looks: tuple[Look, ...]
    raised: bool
    degraded: bool = False


class Overtaken(NamedTuple):
    """Another Extend started the hold meanwhile: look at it again."""


class Found(NamedTuple):
    """What is stored under a tenant and an id."""

    now_ms: int
    account: Account | None
    hold: HoldView | None


class HoldOutcome(NamedTuple):
    """What a settle or release came to."""

    state: State
    applied: bool
    meters: Mapping[str, MeterTotals]


class AllocationImport(NamedTuple):
    """An allocation that was made elsewhere: `check` names the count's cell."""

    check: CheckForm
    name: str
    units: int


class CycleImport(NamedTuple):
    """Use of a quota in one cycle that happened elsewhere: `check` names the cell and has limit and terms."""

    check: CheckForm
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWrite:
    """A change of an account record, of balances, of quotas, or of several of them, in one step.

    `account` replaces the record when `expected_version` is the stored one (0: there is none); None leaves the
    record alone. `grants` adds units by balance cell, of this source and expiry; units below 0 are taken back.
    `balances` has the policy's limit of each cell; without it a balance is one sum, has no ledger and no debt. `marks`
    are the thresholds of balances that may fall. `refills` make the schedule of balances that have none; with `raises`
    they also top up at once, once per plan and cycle. `uses` books use of quotas, `allocations` makes allocations
    stand. `limits_ms` is when time next changes an allowance with thresholds. `write_id` makes it idempotent, with
    `fingerprint` telling equal content; empty for a write that only the version guards. `cause` is for the ledger.
    `act` is what the audit trail is to tell of it, if anything.
    """

    account: Account | None = None
    expected_version: int = 0
    grants: Mapping[str, int] = field(default_factory=dict)
    source: GrantSource = GrantSource.MONTHLY
    expires_at_ms: int = FOREVER_MS
    balances: Mapping[str, Balance] = field(default_factory=dict)
    marks: Mapping[str, Marks] = field(default_factory=dict)
    refills: Sequence[Refill] = ()
    raises: bool = False
    cause: Cause = Cause.OPENING
    uses: tuple[CycleImport, ...] = ()
    allocations: tuple[AllocationImport, ...] = ()
    limits_ms: int = FOREVER_MS
    write_id: str = ""
    fingerprint: bytes = b""
    act: Act | None = None


class Written(NamedTuple):
    """An account write was made, or had been made before (`applied` False): by how many units each cell of `grants`
    changed. What could not be taken back is not among them.
    """

    account: Account | None
    applied: bool
    changed: Mapping[str, int] = MappingProxyType({})


class Conflict(NamedTuple):
    """The stored version is another one; nothing was changed."""

    account: Account | None


class Audit(NamedTuple):
    """Balances by cell, and the sequence of the ledger's last entry (0 where none is left) at that instant."""

    now_ms: int
    last_sequence: int
    balances: Mapping[str, BalanceState]


class StoreFigures(NamedTuple):
    """Of all tenants together: open holds by policy; scripts that the store ran, and the microseconds they took."""

    open_holds: Mapping[str, int]
    scripts_run: int = 0
    scripts_us: int = 0


class Engine(Protocol):
    """Atomic decisions. `within_s` bounds each call: past it StoreUnavailableError, never a half-taken state."""

    @property
    def books(self) -> Books:
        """What callers tell of what exists."""

    @property
    def feed(self) -> Feed:
        """How far notes have been told to the webhook."""

    @property
    def walks(self) -> Walks:
        """All tenants of a policy."""

    @property
    def hands(self) -> Hands:
        """What operators do."""

    @property
    def wakes(self) -> Wakes:
        """Who is woken when a tenant has new notes."""

    @property
    def queues(self) -> "Queues":
        """Who waits in front of pools."""

    async def reserve(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None = None
    ) -> Granted | Refused | Replayed | Stale | Queued:
        """Takes all of the plan's checks or none. `hold_id` is empty when nothing is to be remembered. Where nothing
        but a pool with a queue blocks, the request waits, and `ticket` says how its place is kept.
        """

    async def look(self, plan: Plan, within_s: float) -> Looked | Stale:
        """The plan's figures, taking nothing and remembering nothing."""

    async def cycles(self, plan: Plan, within_s: float) -> Cycles | Stale:
        """As `look`, with the current and past cycles of the plan's quotas."""

    async def notes(self, ref: TenantRef, after: str, count: int, within_s: float) -> Sequence[Note]:
        """At most `count` notes behind the one of id `after` (empty: from the start), the oldest first."""

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, hold_id: str, delivered: Delivered, *, final: bool, within_s: float, allocation: str = ""
    ) -> HoldOutcome:
        """Charges what was delivered; when final, gives the rest back and ends the hold, and what it has of counts
        stands from then on as `allocation` (empty: under the hold's id).
        """

    async def release(self, ref: TenantRef, hold_id: str, within_s: float, act: Act | None = None) -> HoldOutcome:
        """Gives back what no report has charged and ends the hold; as an operator's `act` if there is one."""

    async def extend(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        hold_id: str,
        used: Mapping[str, int],
        raised: Plan | None,
        within_s: float,
        *,
        start: Start | None = None,
    ) -> Extended | Stale | Overtaken:
        """Renews the lease, reports totals, and raises to the amounts of `raised` where that fits. `start` is what the
        first one makes of a hold whose time is paid, if nobody was faster.
        """

    async def find(self, ref: TenantRef, hold_id: str, within_s: float) -> Found:
        """The account and, for a non-empty id, the hold."""

    async def write_account(self, ref: TenantRef, write: AccountWrite, within_s: float) -> Written | Conflict:
        """Changes an account and its balances; IdReusedError when the id was used with other content."""

    async def ledger(self, ref: TenantRef, after: int, count: int, within_s: float) -> Sequence[LedgerEntry]:
        """The ledger's entries with a sequence above `after`, the first first."""

    async def trim_ledger(self, ref: TenantRef, through: int, within_s: float) -> int:
        """Drops entries up to this sequence; how many."""

    async def audit(self, ref: TenantRef, cells: Sequence[str], within_s: float) -> Audit:
        """These balances, at one instant."""

    async def open_holds(
        self, ref: TenantRef, after: tuple[int, str], count: int, within_s: float
    ) -> Sequence[HoldView]:
        """Open holds by (lease end, id), those past `after` first."""

    async def sweep(self) -> int:
        """Expires overdue holds of idle tenants; how many."""

    async def figures(self) -> StoreFigures:
        """What operators see of the store; may take long, and is not exact while it changes."""

    async def close(self) -> None:
        """Lets go of the store."""
