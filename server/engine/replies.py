"""What scripts answer, in the words of the domain."""

from typing import Any

from server.domain.errors import CorruptStateError, HoldgateError, OverloadedError, StoreUnavailableError
from server.domain.hold import State
from server.domain.operation import TenantRef
from server.engine import records
from server.engine.base import HoldOutcome
from server.engine.faults import decreased, no_such_hold, no_such_meter, unfit
from server.engine.store_errors import ScriptFailed, StoreError


def hold_outcome(operation: str, ref: TenantRef, hold_id: str, reply: list[Any]) -> HoldOutcome:
    """What a settle or release came to; raises where it does not fit."""
    match reply:
        case [1, _, state, meters, _, _]:
            return HoldOutcome(State(state), applied=True, meters=records.meters_of(meters))
        case [1 | 2 as outcome, _, record, *_]:
            hold = records.hold_of(hold_id, record)
            return HoldOutcome(hold.state, outcome == 1, hold.meters)
        case [3, _]:
            raise no_such_hold(ref, hold_id)
        case [5, _, record]:
            raise unfit(records.hold_of(hold_id, record), operation)
        case [6, _, record]:
            raise decreased(records.hold_of(hold_id, record))
        case [7, _, meter]:
            raise no_such_meter("usage.used", hold_id, meter.decode())
    raise unreadable(operation, reply)


def unreadable(name: str, reply: object) -> CorruptStateError:
    """The error for an answer that the script never gives."""
    return CorruptStateError(f"script {name} answered {reply!r}, which is none of its replies")


def fault_of(name: str, error: StoreError) -> HoldgateError:
    """A store's fault in the words of the domain."""
    if isinstance(error, ScriptFailed):
        return CorruptStateError(f"script {name} failed: {error}")
    if error.reason == "overloaded":
        return OverloadedError(str(error))
    return StoreUnavailableError(f"{name}: {error}", {"reason": error.reason})
