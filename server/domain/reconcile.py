"""Reconciliation: a balance against its ledger and its open holds."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from server.domain.ledger import Cause, LedgerEntry, Totals


class GrantLeft(NamedTuple):
    """What is left of the units of one source and expiry."""

    source: int
    expires_at_ms: int
    left: int


class BalanceState(NamedTuple):
    """A balance at one instant.

    `grants` are those kept apart; `refill_ms` the next refill, 0 without; `trimmed` the totals at the last entry that
    is no longer in the ledger; `kept` what open holds keep, None where there are too many to look at. `cell` is the
    state as stored, which a repair expects to find.
    """

    totals: Totals
    grants: tuple[GrantLeft, ...]
    refill_ms: int
    trimmed: Totals | None
    kept: int | None
    cell: bytes = b""


class Difference(NamedTuple):
    """What does not add up: in which balance, what, and the two figures."""

    cell: str
    what: str
    expected: int
    found: int


def differences(balances: Mapping[str, BalanceState], entries: Sequence[LedgerEntry]) -> Iterator[Difference]:
    """Each difference between the ledger, the balances and their open holds."""
    for before, entry in pairwise(entries):
        if entry.sequence != before.sequence + 1:
            yield Difference(entry.cell, "ledger.sequence", before.sequence + 1, entry.sequence)
    for cell, state in balances.items():
        last = state.trimmed
        for entry in entries:
            if entry.cell == cell:
                if last is not None and entry.cause is not Cause.REPAIR:  # a repair says itself what was wrong
                    yield from _unequal(cell, f"ledger entry {entry.sequence}: ", last, entry.before)
                last = entry.after
        if last is not None:
            yield from _unequal(cell, "", last, state.totals)
        if state.kept is not None and state.kept != state.totals.held:
            yield Difference(cell, "held", state.kept, state.totals.held)


def repaired(cell: str, state: BalanceState, entries: Sequence[LedgerEntry]) -> Totals:
    """The totals that the ledger and the open holds tell."""
    told = [entry.after for entry in entries if entry.cell == cell]
    totals = told[-1] if told else (state.trimmed or state.totals)
    return totals._replace(held=state.totals.held if state.kept is None else state.kept)


def _unequal(cell: str, where: str, expected: Totals, found: Totals) -> Iterator[Difference]:
    for name, wanted, seen in zip(Totals._fields, expected.moved, found.moved, strict=True):
        if wanted != seen:
            yield Difference(cell, f"{where}{name}", wanted, seen)
