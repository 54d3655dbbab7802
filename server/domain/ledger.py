"""The ledger: an entry for each step that moved money, with a balance's totals before and after it."""

from enum import IntEnum
from typing import NamedTuple


class Cause(IntEnum):
    """Why money moved. The numbers are stored and never change; the first four are those of `limits.base.Ending`."""

    REPORT = 1
    SETTLE = 2
    RELEASE = 3
    LEASE_END = 4
    LAPSE = 5
    REFILL = 6
    UPGRADE = 7
    OPENING = 8
    PURCHASE = 9
    GRANT = 10
    IMPORT = 11
    REFUND = 12
    REPAIR = 13
    ADJUST = 14


class Totals(NamedTuple):
    """A balance's running totals since the account began, in base units.

    granted - reversed + debt = available + held + charged + expired.
    """

    granted: int = 0
    reversed: int = 0
    charged: int = 0
    held: int = 0
    expired: int = 0
    uncollected: int = 0
    debt: int = 0

    @property
    def available(self) -> int:
        """What may still be held."""
        return self.granted - self.reversed + self.debt - self.charged - self.held - self.expired

    @property
    def worth(self) -> int:
        """What the account owns: available and held, less what it owes. Only a movement of money changes it."""
        return self.granted - self.reversed - self.charged - self.expired

    @property
    def left(self) -> int:
        """What is not spent: available and held. Taking and giving back leave it as it is."""
        return self.granted - self.reversed - self.expired - self.charged + self.debt

    @property
    def moved(self) -> "Totals":
        """The totals without what is held, which changes without an entry."""
        return self._replace(held=0)


class LedgerEntry(NamedTuple):
    """One step. `sequence` counts a tenant's entries from 1 without gaps; `reference` is the hold's id or the id of
    the purchase, grant, import, refund or adjustment; `cell` the balance's.
    """

    sequence: int
    at_ms: int
    cause: Cause
    reference: str
    cell: str
    before: Totals
    after: Totals

    @property
    def units(self) -> int:
        """What came in (above 0) or went out, by worth."""
        return self.after.worth - self.before.worth
