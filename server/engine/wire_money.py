"""What goes to the scripts and comes back about money; see `wire` for the form of it all."""

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import msgpack

from server.domain.errors import CorruptStateError
from server.domain.ledger import Cause, LedgerEntry, Totals
from server.domain.reconcile import BalanceState, GrantLeft
from server.domain.refill import BalanceTerms, Refill
from server.domain.units import FOREVER_MS
from server.engine import keys, quota_cells
from server.engine.base import AccountWrite
from server.engine.records import account_record
from server.engine.sequences import pack, unpack
from server.engine.wire_limits import burn_order

TOTALS_SIZE: Final = 49
"""Bytes of a balance's totals."""


class TermsAt(NamedTuple):
    """The terms of balances at an instant, for an account of this version; at 0 none are known yet."""

    at_ms: int = 0
    version: int = 0
    balances: BalanceTerms = BalanceTerms()


def pack_account_write(now_ms: int, member: bytes, write: AccountWrite) -> bytes:
    """The argument of `account.lua`."""
    replaces = write.account is not None
    values: list[object] = [
        now_ms,
        member,
        int(replaces),
        write.expected_version,
        account_record(write.account) if write.account is not None else b"",
        write.write_id,
        write.fingerprint,
        write.cause,
        len(write.grants),
    ]
    for cell, units in write.grants.items():
        limit = write.balances.get(cell)
        terms = (burn_order(limit), int(limit.ledger), limit.debt) if limit is not None else ("", 0, 0)
        values += (cell, units, write.source, write.expires_at_ms, *terms, pack(write.marks.get(cell, ())))
    values.append(len(write.refills))
    for refill in write.refills:
        values += (*_refill_values(refill), int(write.raises))
    values.append(len(write.uses))
    for check, used in write.uses:
        assert check.terms is not None  # noqa: S101  # of a quota
        cycle = quota_cells.packed_cycle(check.terms.start_ms, ())  # the next settle notes what was crossed
        values += (keys.standing_field(check), check.cap, quota_cells.packed_terms(check.terms), cycle, used)
    values.append(len(write.allocations))
    for check, name, units in write.allocations:
        values += (keys.standing_field(check), name, units)
    values.append(write.limits_ms)
    return pack(values)


def _refill_values(refill: Refill) -> tuple[object, ...]:
    cycle = refill.cycle
    return refill.cell, int(refill.ledgered), refill.plan, refill.ceiling, cycle.start_ms, cycle.end_ms


def pack_reap(now_ms: int, most: int, member: bytes, terms: TermsAt) -> bytes:
    """The argument of `reap.lua`."""
    refills = [value for refill in terms.balances.refills for value in _refill_values(refill)]
    return pack([now_ms, most, member, terms.at_ms, terms.version, *refills])


def pack_marks(terms: TermsAt) -> bytes:
    """What else `reap.lua` needs of the terms: the thresholds of each balance that has some, by cell."""
    return pack([value for cell, marks in terms.balances.marks.items() for value in (cell, pack(marks))])


def results_of(packed: bytes) -> Sequence[int]:
    """The units by which each change of an account write changed its balance; none for a write of an older server."""
    return cast("Sequence[int]", msgpack.unpackb(packed)) if packed else ()


def ledger_entry(sequence: int, packed: bytes) -> LedgerEntry:
    """One entry of the stream."""
    try:
        at_ms, cause, reference, field, before, after = unpack(packed)
        totals_before, totals_after = totals_of(before), totals_of(after)
        return LedgerEntry(
            sequence, at_ms, Cause(cause), reference.decode(), field.decode(), totals_before, totals_after
        )
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        message = f"ledger entry {sequence} is not readable: {error!r}"
        raise CorruptStateError(message) from error


def balance_states(packed: bytes) -> list[BalanceState]:
    """The balances of `audit.lua`: cell, schedule, cell at the last trim, units kept by the holds that it looked at."""
    parts = msgpack.unpackb(packed, raw=True)
    try:
        return [_balance_state(*parts[at : at + 4]) for at in range(0, len(parts), 4)]
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise CorruptStateError(f"a balance is not readable: {error!r}") from error


def _balance_state(cell: bytes, schedule: bytes, trimmed: bytes, kept: int) -> BalanceState:
    values = unpack(cell[TOTALS_SIZE:])[2:] if cell else []
    grants = tuple(GrantLeft(*values[at : at + 3]) for at in range(0, len(values), 3))
    refill_ms = unpack(schedule)[1] if schedule else FOREVER_MS
    return BalanceState(
        totals=totals_of(cell) if cell else Totals(),
        grants=grants,
        refill_ms=refill_ms if refill_ms < FOREVER_MS else 0,
        trimmed=totals_of(trimmed) if trimmed else None,
        kept=kept,
        cell=cell,
    )


def totals_of(cell: bytes) -> Totals:
    """The totals of a balance's cell."""
    if len(cell) < TOTALS_SIZE:
        raise CorruptStateError(f"a balance cell has {len(cell)} bytes, below {TOTALS_SIZE}")
    return Totals(*(int.from_bytes(cell[at : at + 7], "big") for at in range(0, TOTALS_SIZE, 7)))
