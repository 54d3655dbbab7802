"""What operators do to a tenant by hand, each time with a line in the audit trail."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from server.domain.act import Act, AuditLine
from server.domain.ledger import Totals
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm
from server.domain.reconcile import BalanceState
from server.engine.books import Outdated


class Reset(NamedTuple):
    """Forgets what the cell of `check` has counted: a window's entries, or a quota's use in the cycle of its terms,
    for an account at `version`. With `every`, that of all its cells, whatever their dimensions.
    """

    check: CheckForm
    version: int
    every: bool


class Adjustment(NamedTuple):
    """Adds units to what is used of a quota in its cycle, or to a balance; with `sets`, makes the quota's use so many.

    For an account at `version`.
    """

    check: CheckForm
    version: int
    units: int
    sets: bool


class WasReset(NamedTuple):
    """How many cells had counted something, and how much together. `applied` is False where the id was used before."""

    applied: bool
    cells: int
    before: int


class Adjusted(NamedTuple):
    """Settled use of the quota, or what is available of the balance less what it owes, before and after."""

    applied: bool
    before: int
    after: int


class Deletion(NamedTuple):
    """How far the deletion of a tenant has come: whether this call began it, the holds that it ended, the keys that it
    removed, and the place to go on from; empty when the tenant is gone.
    """

    applied: bool
    holds: int
    keys: int
    place: str


class Hands(Protocol):
    """`within_s` bounds each call: past it StoreUnavailableError. An act's `request_id` makes it idempotent; where it
    was used for something else (`fingerprint` tells), IdReusedError.
    """

    async def reset(
        self, ref: TenantRef, reset: Reset, act: Act, fingerprint: bytes, within_s: float
    ) -> WasReset | Outdated:
        """Forgets what was counted."""

    async def adjust(
        self, ref: TenantRef, adjustment: Adjustment, act: Act, fingerprint: bytes, within_s: float
    ) -> Adjusted | Outdated:
        """Changes a quota's use or a balance."""

    async def repair(
        self, ref: TenantRef, totals: Mapping[str, Totals], seen: Mapping[str, BalanceState], act: Act, within_s: float
    ) -> bool:
        """Gives balances these totals, if they are still as `seen`; whether it did."""

    async def acts(self, ref: TenantRef, after: str, count: int, within_s: float) -> tuple[Sequence[AuditLine], str]:
        """At most `count` lines about the tenant, the first first, or with an empty name about all of the policy's; and
        the place to go on from (empty: there are no more), which is where the walk has come to, be it without a line.
        """

    async def delete(self, ref: TenantRef, act: Act, *, forced: bool, place: str, within_s: float) -> Deletion:
        """Deletes a tenant, or goes on with that from the place that was answered before. Open holds are ended if it is
        `forced`; else TenantInUseError, and nothing is deleted. Until it is done the tenant takes nothing new.
        """
