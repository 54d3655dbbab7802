"""The errors that every engine answers with, in one wording."""

from collections.abc import Mapping, Sequence

from server.domain.errors import (
    AccountChangedError,
    HoldExpiredError,
    HoldgateError,
    HoldNotFoundError,
    HoldStateError,
    IdReusedError,
    InvalidRequestError,
    TenantInUseError,
    TooManyCellsError,
    TotalDecreasedError,
)
from server.domain.hold import HoldView, MeterTotals, State
from server.domain.limits.balance import MOST_GRANTS
from server.domain.operation import TenantRef


def item_totals(hold: HoldView, delivered: Sequence[str]) -> dict[str, int]:
    """Totals by meter of the delivered items, at the prices that the hold was made with."""
    prices = hold.note.item_prices
    for index, item in enumerate(delivered):
        if item not in prices:
            known = ", ".join(prices) or "none"
            raise InvalidRequestError.of(
                f"items.ids[{index}]", f"hold {hold.hold_id!r} has no item {item!r}; it has: {known}"
            )
    totals = {meter: 0 for priced in prices.values() for meter in priced}
    for item in dict.fromkeys(delivered):
        for meter, amount in prices[item].items():
            totals[meter] += amount
    return totals


def no_such_hold(ref: TenantRef, hold_id: str) -> HoldNotFoundError:
    """The error for an id that names neither a hold nor a tombstone of this tenant."""
    message = f"tenant {ref.tenant!r} has no hold {hold_id!r}; it never existed or its tombstone has ended"
    return HoldNotFoundError(message)


def no_such_meter(field: str, hold_id: str, meter: str) -> InvalidRequestError:
    """The error for a total, in this field of the request, of a meter that the hold lacks."""
    return InvalidRequestError.of(f"{field}[{meter}]", f"hold {hold_id!r} holds nothing of meter {meter!r}")


def not_active(hold: HoldView) -> HoldgateError:
    """The error for an operation that only an active hold allows."""
    details = _state_details(hold.state, hold.meters)
    if hold.state is State.EXPIRED:
        message = f"the lease of hold {hold.hold_id!r} has ended; settle what was delivered, or reserve anew"
        return HoldExpiredError(message, details)
    message = f"hold {hold.hold_id!r} is {hold.state.name}; only an ACTIVE hold can do this"
    return HoldStateError(message, details)


def unfit(hold: HoldView, operation: str) -> HoldStateError:
    """The error for an operation that does not fit the hold's state."""
    message = f"{operation} does not fit: hold {hold.hold_id!r} is {hold.state.name} with the totals in the details"
    return HoldStateError(message, _state_details(hold.state, hold.meters))


def left_queue(hold: HoldView) -> HoldStateError:
    """The error for a request whose place in a queue was given up, or lapsed, before its turn."""
    message = f"request {hold.hold_id!r} left its queue before its turn and was never run; ask again with a new id"
    return HoldStateError(message, _state_details(hold.state, hold.meters))


def no_queue(hold: HoldView) -> HoldStateError:
    """The error for a request that waits for a pool whose queue the policy has taken away."""
    message = f"request {hold.hold_id!r} waits for a pool that has no queue any more; ask again with a new id"
    return HoldStateError(message, _state_details(hold.state, hold.meters))


def raised_too_often(hold: HoldView) -> HoldStateError:
    """The error for a raise that the hold's record has no room for."""
    message = f"hold {hold.hold_id!r} has been raised too often within its windows; settle it and reserve anew"
    return HoldStateError(message, _state_details(hold.state, hold.meters))


def decreased(hold: HoldView) -> TotalDecreasedError:
    """The error for a final total below an earlier report."""
    message = f"a final total of hold {hold.hold_id!r} is below what was reported before; totals only grow"
    return TotalDecreasedError(message, _state_details(hold.state, hold.meters))


def _state_details(state: State, meters: Mapping[str, MeterTotals]) -> dict[str, str]:
    return {
        "state": state.name,
        **{f"used.{name}": str(totals.reported or 0) for name, totals in meters.items()},
    }


def id_reused(operation_id: str, differs: Sequence[str]) -> IdReusedError:
    """The error for an id that was used before with other content."""
    what = ", ".join(differs)
    message = f"id {operation_id!r} was used before with other {what}; nothing was changed"
    return IdReusedError(message, {"differs": what})


def too_many_cells(ref: TenantRef, most: int) -> TooManyCellsError:
    """The error for a tenant with too many distinct dimension values."""
    message = (
        f"tenant {ref.tenant!r} has {most} cells, the most that one tenant may have; "
        "use fewer distinct dimension values or raise --max-cells"
    )
    return TooManyCellsError(message, {"limit": str(most)})


def grant_is_over() -> InvalidRequestError:
    """The error for a grant whose expiry has passed."""
    return InvalidRequestError.of("expires_at_ms", "has passed; units that expire at once are no grant")


def too_many_grants() -> InvalidRequestError:
    """The error for a grant that a balance has no room for."""
    text = f"would be one grant too many: a balance keeps {MOST_GRANTS} apart; give it the expiry of another"
    return InvalidRequestError.of("expires_at_ms", text)


def balance_too_large() -> InvalidRequestError:
    """The error for units that a balance cannot count exactly."""
    return InvalidRequestError.of("amounts", "would bring a balance above 2^53 - 1")


def being_deleted(ref: TenantRef) -> AccountChangedError:
    """The error for a write to a tenant that is being deleted."""
    message = f"tenant {ref.tenant!r} is being deleted; wait for DeleteTenant to end, or call it again, and then retry"
    return AccountChangedError(message)


def tenant_in_use(ref: TenantRef, holds: int) -> TenantInUseError:
    """The error for the deletion of a tenant that has open holds."""
    message = f"tenant {ref.tenant!r} has {holds} open holds; let them end, or force the deletion and end them with it"
    return TenantInUseError(message, {"holds": str(holds)})


def adjusted_too_far() -> InvalidRequestError:
    """The error for an adjustment beyond what can be counted exactly."""
    return InvalidRequestError.of("change", "would bring the limit above 2^53 - 1")
