"""One step in the life of a hold of the memory engine; twin of `lua/include/finish.lua`."""

from collections.abc import Mapping
from typing import NamedTuple

from server.domain.hold import WAITING, State
from server.domain.ledger import Cause, Totals
from server.domain.limits import Kind
from server.domain.limits.balance import BalanceCell
from server.domain.limits.base import Change, Ending
from server.domain.limits.slots import SlotsCell
from server.engine.memory_money import is_ledgered
from server.engine.memory_notes import note_crossings, note_fall
from server.engine.memory_queues import leave_queue
from server.engine.memory_tenant import Hold, Tenant


class Step(NamedTuple):
    """A step in a hold's life: why, the next state, and the reported totals that it brings."""

    ending: Ending
    state: State
    totals: Mapping[str, int]


def finish(tenant: Tenant, hold: Hold, step: Step, now_ms: int) -> None:
    """One step in a hold's life: brings every cell that it took from to the new totals, then the hold."""
    ending, state, totals = step
    live, was = hold.is_live, hold.state
    taken = leave_queue(tenant, hold) if was is State.QUEUED else hold.takes
    for take in taken:
        before = after = -1
        if take.meter:
            before = hold.meters[take.meter].reported or 0
            after = totals.get(take.meter, before)
        cell = tenant.cells[take.name]
        unclaimed = was in WAITING and isinstance(cell, SlotsCell)  # nobody ran, so nothing is measured
        change = Change(Ending.EXPIRE if unclaimed else ending, before, after, live, now_ms)
        totals_before = cell.totals if isinstance(cell, BalanceCell) else Totals()
        uncollected = cell.finish(take.taken, change, take.limit)
        if isinstance(cell, BalanceCell):
            if is_ledgered(take.limit) and cell.totals.moved != totals_before.moved:
                tenant.moved(now_ms, Cause(ending), hold.hold_id, take.name[0], totals_before)
            note_fall(tenant, take.name, take.taken.marks, (totals_before.left, cell.totals.left), now_ms)
        note_crossings(tenant, cell, take.name, now_ms)
        if uncollected:
            meter = hold.meters[take.meter]
            hold.meters[take.meter] = meter._replace(uncollected=meter.uncollected + uncollected)
    for meter_name, total in totals.items():
        hold.meters[meter_name] = hold.meters[meter_name]._replace(reported=total)
    hold.state = state
    if state is State.EXPIRED:
        hold.takes = [take for take in hold.takes if take.meter or take.limit.kind is Kind.COUNT]
    elif state is not State.ACTIVE:
        hold.takes = []
    if live and state is not State.ACTIVE:
        hold.kept_until_ms = now_ms + hold.terms.tombstone_ms
