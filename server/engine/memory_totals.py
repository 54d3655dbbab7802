"""What a report brings a hold's meters to, in the memory engine."""

from collections.abc import Mapping

from server.domain.hold import Fraction, MeterTotals
from server.engine.faults import no_such_meter


def named_totals(
    hold_id: str, meters: Mapping[str, MeterTotals], delivered: Mapping[str, int] | Fraction | None
) -> Mapping[str, int]:
    """The totals that a report names, by meter; raises InvalidRequestError for a meter that the hold lacks."""
    if isinstance(delivered, Fraction):
        return {meter: delivered.of(totals.reserved) for meter, totals in meters.items()}
    for meter in delivered or ():
        if meter not in meters:
            raise no_such_meter("usage.used", hold_id, meter)
    return delivered or {}


def unnamed(totals: MeterTotals, *, final: bool) -> int:
    """What a meter comes to that a report leaves out: its last report; as reserved, if final and never reported."""
    if totals.reported is None:
        return totals.reserved if final else 0
    return totals.reported


def is_new(totals: MeterTotals, total: int, *, named: bool) -> bool:
    """Whether a total tells more than the last report did."""
    return total > (totals.reported or 0) or (named and totals.reported is None)
