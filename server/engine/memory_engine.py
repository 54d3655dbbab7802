"""The reference: slow, obvious, and what the scripts are held against. Also `--store memory`, for a first look.

Everything is in plain objects of one process and gone with it. A call does not yield between its first look and its
last change, so each is atomic.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from server.domain.account import Account
from server.domain.act import Act
from server.domain.allowances import LooksOf, no_looks
from server.domain.hold import WAITING, Delivered, HoldView, MeterTotals, State
from server.domain.ledger import LedgerEntry
from server.domain.limits.base import Ending, Look
from server.domain.note import Note
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import TermsOf, Ticket, no_queues
from server.domain.refill import RefillTerms, no_refills
from server.domain.timed import Start
from server.engine.base import (
    AccountWrite,
    Audit,
    Conflict,
    Cycles,
    Extended,
    Found,
    Granted,
    HoldOutcome,
    Looked,
    Overtaken,
    Queued,
    Refused,
    Replayed,
    Stale,
    StoreFigures,
    Written,
)
from server.engine.faults import (
    decreased,
    id_reused,
    item_totals,
    no_such_hold,
    no_such_meter,
    not_active,
    unfit,
)
from server.engine.memory_books import MemoryBooks
from server.engine.memory_checks import (
    blocked,
    cell_for,
    follow_clock,
    is_current,
    look_all,
    must_have_room,
    name_of,
    take_all,
    waits,
)
from server.engine.memory_counts import bring_in, settled, stand
from server.engine.memory_feed import MemoryFeed
from server.engine.memory_finish import Step, finish
from server.engine.memory_hands import MemoryHands, kept_by
from server.engine.memory_money import begin_refills, change_grants, grant_units, joined_draws, must_fit
from server.engine.memory_queues import MemoryQueues, join_queue, make_turns
from server.engine.memory_quotas import book_uses, cycles_of, joins
from server.engine.memory_tenant import LIMITS_DUE, Hold, Tenant
from server.engine.memory_totals import is_new, named_totals, unnamed
from server.engine.memory_walks import MemoryWalks
from server.engine.wakes import Wakes


class MemoryEngine:
    """Decisions in this process. `clock` gives milliseconds since the epoch."""

    def __init__(
        self,
        clock: Callable[[], int],
        *,
        refills: RefillTerms = no_refills,
        queues: TermsOf = no_queues,
        most_cells: int = 1000,
        looks: LooksOf = no_looks,
    ) -> None:
        self._clock = clock
        self._refills = refills
        self._queue_terms = queues
        self._most_cells = most_cells
        self._tenants: dict[TenantRef, Tenant] = {}
        self.books = MemoryBooks(self._enter, looks, most_cells)
        self.queues = MemoryQueues(self._enter, self._release, is_current)
        self.feed = MemoryFeed(self._tenants, clock)
        self.walks = MemoryWalks(self._tenants)
        self.hands = MemoryHands(self._enter, self._tenants)
        self.wakes = Wakes()

    def _enter(self, ref: TenantRef) -> tuple[Tenant, int]:
        """The tenant with all done that time has made due, in its order, and the time."""
        now_ms = self._clock()
        tenant = self._tenants.setdefault(ref, Tenant(noted=partial(self.wakes.wake, ref)))
        while (due := tenant.first_due())[0] <= now_ms:
            if (hold_id := due[1]) == LIMITS_DUE:
                self.books.look(ref, tenant, now_ms)
            elif hold_id:
                waiting = tenant.holds[hold_id].state in WAITING
                lapse = Step(Ending.RELEASE, State.LEFT, {}) if waiting else Step(Ending.EXPIRE, State.EXPIRED, {})
                finish(tenant, tenant.holds[hold_id], lapse, now_ms)
            else:
                self._change_grants(ref, tenant, due[0])
        tenant.holds = {i: h for i, h in tenant.holds.items() if not h.kept_until_ms or h.kept_until_ms > now_ms}
        self._make_turns(ref, tenant, now_ms)
        return tenant, now_ms

    def _make_turns(self, ref: TenantRef, tenant: Tenant, now_ms: int) -> None:
        if not tenant.queue:
            return
        for hold_id in make_turns(tenant, self._queue_terms(ref, tenant.account, now_ms), now_ms):
            ticket = tenant.holds[hold_id].ticket
            if ticket is not None and ticket.owner:
                self.queues.turns.come(ref, hold_id)

    def _change_grants(self, ref: TenantRef, tenant: Tenant, at_ms: int) -> None:
        change_grants(tenant, self._refills(ref, tenant.account or Account(plan=""), at_ms), at_ms)

    async def reserve(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None = None
    ) -> Granted | Refused | Replayed | Stale | Queued:
        """Takes all of the plan's checks or none."""
        tenant, now_ms = self._enter(plan.operation.ref)
        if (known := tenant.holds.get(hold_id)) is not None:
            same = (known.fingerprint, known.figures_key) == (plan.fingerprint, plan.shape.figures_key)
            return Replayed(now_ms, known.view(), known.looks if same else ())
        if not is_current(plan, tenant, now_ms):
            return Stale(now_ms, tenant.account)
        looks = look_all(plan.checks, tenant, now_ms)
        if plan.gated or blocked(plan.checks, looks):
            follow_clock(plan.checks, tenant, looks, now_ms)
            return Refused(now_ms, looks)
        must_have_room(plan, tenant, self._most_cells, now_ms)
        follow_clock(plan.checks, tenant, looks, now_ms)
        pool = waits(plan.checks, looks)
        takes, looks = take_all(plan.checks, tenant, looks, now_ms, {})
        if not hold_id:
            return Granted(now_ms, looks, 0)
        terms = plan.terms
        hold = Hold(
            hold_id=hold_id,
            state=State.ACTIVE if plan.leaves_hold else State.DONE,
            fingerprint=plan.operation.fingerprint(),
            created_at_ms=now_ms,
            lease_ends_at_ms=now_ms + terms.granted_ms if plan.leaves_hold else 0,
            terms=terms,
            note=plan.note,
            figures_key=plan.shape.figures_key,
            looks=looks,
            meters={meter: MeterTotals(amount, None, 0) for meter, amount in plan.meters.items()},
            takes=takes,
            kept_until_ms=0 if plan.leaves_hold else now_ms + terms.replay_ms,
        )
        tenant.holds[hold_id] = hold
        if pool is None or ticket is None:
            return Granted(now_ms, looks, hold.lease_ends_at_ms)
        position = join_queue(tenant, hold, pool, ticket, now_ms)
        self._make_turns(plan.operation.ref, tenant, now_ms)
        return Queued(now_ms, looks, position, ticket.lasts_ms)

    async def look(self, plan: Plan, within_s: float) -> Looked | Stale:
        """The plan's figures."""
        tenant, now_ms = self._enter(plan.operation.ref)
        if not is_current(plan, tenant, now_ms):
            return Stale(now_ms, tenant.account)
        return Looked(now_ms, look_all(plan.checks, tenant, now_ms))

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, hold_id: str, delivered: Delivered, *, final: bool, within_s: float, allocation: str = ""
    ) -> HoldOutcome:
        """Charges what was delivered; when final, ends the hold."""
        tenant, now_ms = self._enter(ref)
        hold = _held(tenant, ref, hold_id)
        if isinstance(delivered, tuple):
            delivered = item_totals(hold.view(), delivered)
        if hold.state is State.DONE:
            return _outcome(hold, applied=False)
        if hold.state in {State.RELEASED, State.LEFT, *WAITING}:
            raise unfit(hold.view(), "settle")
        named = named_totals(hold.hold_id, hold.meters, delivered)
        totals = {meter: named.get(meter, unnamed(values, final=final)) for meter, values in hold.meters.items()}
        falls = any(total < (hold.meters[meter].reported or 0) for meter, total in totals.items())
        rises = any(is_new(hold.meters[meter], total, named=meter in named) for meter, total in totals.items())
        if hold.state in {State.SETTLED, State.SETTLED_LATE}:
            if rises or (falls and final):
                raise unfit(hold.view(), "settle")
            return _outcome(hold, applied=False)
        if final and falls:
            raise decreased(hold.view())
        if not final and not rises:
            return _outcome(hold, applied=False)
        raised = {meter: max(total, hold.meters[meter].reported or 0) for meter, total in totals.items()}
        if final:
            state = State.SETTLED if hold.state is State.ACTIVE else State.SETTLED_LATE
            stand(tenant, allocation or hold_id, settled(hold.takes))
            finish(tenant, hold, Step(Ending.SETTLE, state, raised), now_ms)
            self._make_turns(ref, tenant, now_ms)
        else:
            kept = {meter: total for meter, total in raised.items() if total or meter in named}
            finish(tenant, hold, Step(Ending.REPORT, hold.state, kept), now_ms)
        return _outcome(hold, applied=True)

    async def release(self, ref: TenantRef, hold_id: str, within_s: float, act: Act | None = None) -> HoldOutcome:
        """Gives back what no report has charged."""
        return self._release(ref, hold_id, act)

    def _release(self, ref: TenantRef, hold_id: str, act: Act | None = None) -> HoldOutcome:
        tenant, now_ms = self._enter(ref)
        hold = _held(tenant, ref, hold_id)
        if not hold.is_live:
            return _outcome(hold, applied=False)
        ended = State.LEFT if hold.state in WAITING else State.RELEASED
        self.hands.tell(ref, act, now_ms, kept_by(hold))
        finish(tenant, hold, Step(Ending.RELEASE, ended, {}), now_ms)
        self._make_turns(ref, tenant, now_ms)
        return _outcome(hold, applied=True)

    async def extend(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        hold_id: str,
        used: Mapping[str, int],
        raised: Plan | None,
        within_s: float,
        *,
        start: Start | None = None,
    ) -> Extended | Stale | Overtaken:
        """Renews the lease, reports totals, and raises amounts where that fits."""
        tenant, now_ms = self._enter(ref)
        hold = _held(tenant, ref, hold_id)
        if hold.state is not State.ACTIVE:
            raise not_active(hold.view())
        if start is not None and hold.note.started_at_ms:
            return Overtaken()
        if raised is not None and not is_current(raised, tenant, now_ms):
            return Stale(now_ms, tenant.account)
        for meter in (*used, *(raised.meters if raised is not None else ())):
            if meter not in hold.meters:
                raise no_such_meter("used" if meter in used else "amounts", hold_id, meter)
        reports = {meter: total for meter, total in used.items() if total >= (hold.meters[meter].reported or 0)}
        if reports:
            finish(tenant, hold, Step(Ending.REPORT, State.ACTIVE, reports), now_ms)
        fits = True
        looks: tuple[Look, ...] = ()
        if raised is not None and any(total > hold.meters[m].reserved for m, total in raised.meters.items()):
            fits, looks = _raise(tenant, hold, raised, now_ms)
        if start is not None:
            hold.note, hold.lease_ends_at_ms = start.note, now_ms
            hold.terms = replace(hold.terms, longest_ms=start.longest_ends_at_ms - hold.created_at_ms)
        longest_ends_at_ms = hold.created_at_ms + hold.terms.longest_ms
        hold.lease_ends_at_ms = max(hold.lease_ends_at_ms, min(now_ms + hold.terms.lease_ms, longest_ends_at_ms))
        return Extended(now_ms, hold.view(), looks, fits)

    async def find(self, ref: TenantRef, hold_id: str, within_s: float) -> Found:
        """The account and the hold."""
        tenant, now_ms = self._tenants.get(ref, Tenant()), self._clock()
        hold = tenant.holds.get(hold_id)
        if hold is not None and hold.kept_until_ms and hold.kept_until_ms <= now_ms:
            hold = None
        return Found(now_ms, tenant.account, hold.view() if hold is not None else None)

    async def write_account(self, ref: TenantRef, write: AccountWrite, within_s: float) -> Written | Conflict:
        """Changes an account and its balances in one step."""
        tenant, now_ms = self._enter(ref)
        known = tenant.writes.get(write.write_id) if write.write_id else None
        if known is not None:
            if known[0] != write.fingerprint:
                raise id_reused(write.write_id, ["content"])
            return Written(tenant.account, applied=False, changed=known[1])
        version = tenant.account.version if tenant.account is not None else 0
        if write.account is not None and version != write.expected_version:
            return Conflict(tenant.account)
        for cell, units in write.grants.items():
            must_fit(tenant, cell, units, write, now_ms)
        changed = {cell: grant_units(tenant, cell, units, write, now_ms) for cell, units in write.grants.items()}
        for refill in write.refills:
            begin_refills(tenant, refill, write, now_ms)
        book_uses(write.uses, lambda check: cell_for(tenant, check), now_ms)
        bring_in(tenant, write.allocations)
        tenant.limits_ms = min(tenant.limits_ms, write.limits_ms)
        if write.account is not None:
            tenant.account = write.account
        if write.write_id:
            tenant.writes[write.write_id] = write.fingerprint, changed
        self.hands.tell(ref, write.act, now_ms)
        self._make_turns(ref, tenant, now_ms)
        return Written(tenant.account, applied=True, changed=changed)

    async def ledger(self, ref: TenantRef, after: int, count: int, within_s: float) -> Sequence[LedgerEntry]:
        """Entries above a sequence."""
        entries = self._tenants.get(ref, Tenant()).ledger
        return [entry for entry in entries if entry.sequence > after][:count]

    async def trim_ledger(self, ref: TenantRef, through: int, within_s: float) -> int:
        """Drops entries."""
        tenant, _ = self._enter(ref)
        dropped = [entry for entry in tenant.ledger if entry.sequence <= through]
        tenant.trimmed |= {entry.cell: entry.after for entry in dropped}
        tenant.ledger = tenant.ledger[len(dropped) :]
        return len(dropped)

    async def audit(self, ref: TenantRef, cells: Sequence[str], within_s: float) -> Audit:
        """Balances with what stands behind them."""
        tenant, now_ms = self._enter(ref)
        last = tenant.ledger[-1].sequence if tenant.ledger else 0
        return Audit(now_ms, last, {cell: tenant.balance_state(cell) for cell in cells})

    async def open_holds(
        self, ref: TenantRef, after: tuple[int, str], count: int, within_s: float
    ) -> Sequence[HoldView]:
        """Open holds by (lease end, id)."""
        holds = self._tenants.get(ref, Tenant()).holds.values()
        views = [replace(hold.view(), lease_ends_at_ms=hold.lease_ends_at_ms) for hold in holds if hold.is_live]
        views.sort(key=lambda view: (view.lease_ends_at_ms, view.hold_id))
        return [view for view in views if (view.lease_ends_at_ms, view.hold_id) > after][:count]

    async def cycles(self, plan: Plan, within_s: float) -> Cycles | Stale:
        """The plan's figures, and the cycles of its quotas."""
        looked = await self.look(plan, within_s)
        if isinstance(looked, Stale):
            return looked
        tenant = self._tenants[plan.operation.ref]
        cells = [tenant.cells[name_of(check)] for check in plan.checks]
        return Cycles(looked.now_ms, looked.looks, cycles_of(cells))

    async def notes(self, ref: TenantRef, after: str, count: int, within_s: float) -> Sequence[Note]:
        """Notes, the oldest first."""
        notes = self._tenants.get(ref, Tenant()).notes
        return [note for note in notes if int(note.note_id) > int(after.partition("-")[0] or 0)][:count]

    async def sweep(self) -> int:
        """Expires overdue holds of all tenants."""
        expired = 0
        for ref, tenant in list(self._tenants.items()):
            open_before = [hold for hold in tenant.holds.values() if hold.is_live]
            self._enter(ref)
            expired += sum(not hold.is_live for hold in open_before)
        return expired

    async def figures(self) -> StoreFigures:
        """Open holds."""
        holds = ((ref.policy, hold) for ref, tenant in self._tenants.items() for hold in tenant.holds.values())
        return StoreFigures(Counter(policy for policy, hold in holds if hold.state is State.ACTIVE))

    async def close(self) -> None:
        """Nothing to let go of."""


def _raise(tenant: Tenant, hold: Hold, plan: Plan, now_ms: int) -> tuple[bool, tuple[Look, ...]]:
    """Takes the difference to the new totals where it fits; the totals only grow."""
    # Where the raise starts: at the reserved total, or at what was reported beyond it, which has been charged already.
    floors = {meter: max(totals.reserved, totals.reported or 0) for meter, totals in hold.meters.items()}
    checks = []
    for check in plan.checks:
        more = max(check.take - floors[check.limit.meter], 0) if check.settles else 0
        checks.append(check._replace(amount=more, take=more, settles=more > 0))
    looks = look_all(checks, tenant, now_ms)
    follow_clock(checks, tenant, looks, now_ms)
    if plan.gated or plan.guarded or blocked(checks, looks):
        return False, looks
    for take in hold.takes:
        if take.meter and take.taken.last:
            charged = (hold.meters[take.meter].reported or 0) - take.taken.base
            take.taken = take.taken._replace(amount=max(take.taken.amount, charged))
    takes, looks = take_all(checks, tenant, looks, now_ms, floors)
    for new in takes:
        joined = False
        for take in [take for take in hold.takes if take.name == new.name]:
            if joins(take.limit, take.taken, new.limit, new.taken):
                draws = joined_draws(take.taken, new.taken)
                take.taken = take.taken._replace(amount=take.taken.amount + new.taken.amount, draws=draws)
                joined = True
            else:
                take.taken = take.taken._replace(last=False)
        if not joined:
            hold.takes.append(new)
    for meter, total in plan.meters.items():
        hold.meters[meter] = hold.meters[meter]._replace(reserved=max(total, hold.meters[meter].reserved))
    return True, looks


def _held(tenant: Tenant, ref: TenantRef, hold_id: str) -> Hold:
    if hold_id not in tenant.holds:
        raise no_such_hold(ref, hold_id)
    return tenant.holds[hold_id]


def _outcome(hold: Hold, *, applied: bool) -> HoldOutcome:
    return HoldOutcome(hold.state, applied, dict(hold.meters))
