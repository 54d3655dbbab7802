"""Messages about money to domain values and back: balances, the ledger, reconciliation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from quota.v1 import admin_service_pb2

from server.accounting import Reconciliation
from server.domain.ledger import Cause, LedgerEntry, Totals
from server.domain.limits import Balance
from server.domain.limits.balance import GrantSource
from server.domain.reconcile import BalanceState
from server.domain.units import FOREVER_MS

_SOURCES: Final = {source: admin_service_pb2.GrantSource.Value(f"GRANT_SOURCE_{source.name}") for source in GrantSource}
_CAUSES: Final = {cause: admin_service_pb2.LedgerCause.Value(f"LEDGER_CAUSE_{cause.name}") for cause in Cause}


def expiry(request: admin_service_pb2.CreateGrantRequest) -> int:
    """When a grant expires."""
    return request.expires_at_ms if request.HasField("expires_at_ms") else FOREVER_MS


def balance_messages(balances: Iterable[tuple[Balance, BalanceState]]) -> list[admin_service_pb2.Balance]:
    """Balances as they travel."""
    return [
        admin_service_pb2.Balance(
            limit_id=limit.id,
            meter=limit.meter,
            available=state.totals.available,
            totals=_totals(state.totals),
            grants=_grants(limit, state),
            next_refill_at_ms=state.refill_ms or None,
        )
        for limit, state in balances
    ]


def _grants(limit: Balance, state: BalanceState) -> list[admin_service_pb2.Grant]:
    """What is available, in the order in which it is used up."""
    apart = [(GrantSource(source), expires_at_ms, left) for source, expires_at_ms, left in state.grants if left]
    rest = state.totals.available - sum(left for _, _, left in apart)
    if rest:
        apart.append((GrantSource.MONTHLY, FOREVER_MS, rest))
    order = limit.burn or tuple(GrantSource)
    apart.sort(key=lambda grant: (order.index(grant[0]), grant[1]))
    return [
        admin_service_pb2.Grant(
            source=_SOURCES[source], expires_at_ms=None if expires_at_ms == FOREVER_MS else expires_at_ms, left=left
        )
        for source, expires_at_ms, left in apart
    ]


def _totals(totals: Totals) -> admin_service_pb2.BalanceTotals:
    return admin_service_pb2.BalanceTotals(**totals._asdict())


def ledger_messages(
    entries: Sequence[LedgerEntry], limit_ids: Mapping[str, str]
) -> list[admin_service_pb2.LedgerEntry]:
    """Entries as they travel; a balance that the policy no longer has is named by its cell."""
    return [
        admin_service_pb2.LedgerEntry(
            sequence=entry.sequence,
            at_ms=entry.at_ms,
            cause=_CAUSES[entry.cause],
            reference=entry.reference,
            limit_id=limit_ids.get(entry.cell, entry.cell),
            units=entry.units,
            before=_totals(entry.before),
            after=_totals(entry.after),
        )
        for entry in entries
    ]


def reconciliation_message(
    found: Reconciliation, limit_ids: Mapping[str, str]
) -> admin_service_pb2.ReconcileBalancesResponse:
    """What a reconciliation found."""
    return admin_service_pb2.ReconcileBalancesResponse(
        differences=[
            admin_service_pb2.BalanceDifference(
                limit_id=limit_ids.get(cell, cell), what=what, expected=expected, found=seen
            )
            for cell, what, expected, seen in found.differences
        ],
        entries=found.entries,
        repaired=found.repaired,
    )
