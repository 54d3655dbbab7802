"""What callers tell an engine of what exists: samples of use, and allocations that stand."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from server.domain.account import Account
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm
from server.domain.sampling import Entry, Outcome


class Target(NamedTuple):
    """A quota's cell in one cycle, which `check` has the terms of; `over` once that has ended."""

    check: CheckForm
    over: bool


class Booking(NamedTuple):
    """Samples of one tenant: `entries` in their order, each with the places of those `targets` that it counts in, and
    when its record may be forgotten. They were placed for the account at `version`.
    """

    version: int
    targets: tuple[Target, ...]
    entries: tuple[tuple[Entry, tuple[int, ...], int], ...]


class Booked(NamedTuple):
    """What became of each sample."""

    now_ms: int
    outcomes: Sequence[Outcome]


class Outdated(NamedTuple):
    """The account is of another version: place the samples again."""

    now_ms: int
    account: Account | None


class Books(Protocol):
    """`within_s` bounds each call: past it StoreUnavailableError."""

    async def record(self, ref: TenantRef, booking: Booking, within_s: float) -> Booked | Outdated:
        """Books samples, each once, and notes the thresholds that they reach."""

    async def note_thresholds(self, ref: TenantRef, within_s: float) -> None:
        """Notes the thresholds that use has reached by now without a report: those of allowances that have changed; and
        has the sweeper come back when time changes one.
        """

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:
        """Gives back what stands under a name, of one cell's name alone if any is given; whether anything did."""
