"""The engine over Redis or Valkey: one script per operation, everything of a tenant in one hash slot.

A call whose outcome is unknown (sent, not answered) is never sent again: the id is looked up once, and what stands
there is the answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from server.domain.act import Act
from server.domain.allowances import LooksOf, no_looks
from server.domain.errors import CorruptStateError, InvalidRequestError, StoreUnavailableError
from server.domain.hold import Delivered, HoldView
from server.domain.ledger import LedgerEntry
from server.domain.note import Note
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import TermsOf, Ticket, no_queues
from server.domain.refill import RefillTerms, no_refills
from server.domain.timed import Start
from server.engine import keys, records, sequences, wire, wire_money
from server.engine.acts import packed_act
from server.engine.audits import audited
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
from server.engine.census import figures, tenants_due
from server.engine.faults import (
    balance_too_large,
    being_deleted,
    grant_is_over,
    id_reused,
    item_totals,
    no_such_hold,
    no_such_meter,
    not_active,
    raised_too_often,
    too_many_cells,
    too_many_grants,
)
from server.engine.hearing import BY_SWEEPER, Hearing
from server.engine.notes import note_of
from server.engine.pipeline import Heard, Reply, StoreCaller, Word
from server.engine.quota_cells import cycles_of
from server.engine.reaping import Reaping, leaves_turns
from server.engine.redis_books import RedisBooks
from server.engine.redis_feed import RedisFeed
from server.engine.redis_hands import RedisHands
from server.engine.redis_queues import RedisQueues
from server.engine.redis_walks import RedisWalks
from server.engine.replies import fault_of, hold_outcome, unreadable
from server.engine.scripts import script
from server.engine.store_calls import ScriptCall
from server.engine.store_errors import OutcomeUnknown, StoreError
from server.engine.turns import Turns
from server.engine.wakes import Wakes
from server.metrics.metrics import Metrics

VAIN_REAPS: Final = 20
"""Reaps in a row that end nothing before what is overdue is taken for something that no reap finds. A few are nothing
unusual: other calls of the tenant reap, too.
"""

LOOK_UP_SHARE: Final = 0.25
"""The part of a reserve's time that is kept for looking its id up when no answer came."""

SWEEP_WITHIN_S: Final = 10.0
"""How long a sweep waits for each answer: nobody waits for a sweep, and a busy store is no reason to give one up."""

TRIM_MOST: Final = 1000
"""Entries that one call drops from a ledger."""

OVERDUE: Final = 4
"""The reply of every script that must not answer while overdue holds are still counted."""


class RedisEngine:
    """Decisions in Redis. `clock` gives milliseconds for tests, or 0 for the store's own clock.

    `wakes` hears what this store publishes; without it nobody is woken.
    """

    def __init__(  # noqa: PLR0913  # each is a part that the server puts together
        self,
        store: StoreCaller,
        *,
        clock: Callable[[], int] = lambda: 0,
        refills: RefillTerms = no_refills,
        most_cells: int = 1000,
        queues: TermsOf = no_queues,
        wakes: Wakes | None = None,
        turns: Turns | None = None,
        metrics: Metrics | None = None,
        looks: LooksOf = no_looks,
    ) -> None:
        self._store = store
        self._clock = clock
        self._most_cells = most_cells
        self._hearing = Hearing(metrics or Metrics())
        self.books = RedisBooks(self._evalsha, store, clock, looks, most_cells)
        self._reaping = Reaping(self._evalsha, self._hearing, clock, refills, queues, self.books.note_thresholds)
        self.feed = RedisFeed(self._evalsha, store, clock)
        self.hands = RedisHands(self._run, self._plain, clock)
        self.queues = RedisQueues(self._run, self._reaping.reap, clock, turns or Turns(), most_cells)
        self.walks = RedisWalks(store)
        self.wakes = wakes or Wakes()

    async def reserve(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None = None
    ) -> Granted | Refused | Replayed | Stale | Queued:
        """Takes all of the plan's checks or none."""
        tenant = keys.tenant_keys(plan.operation.ref)
        packed = wire.pack_plan(plan, tenant, self._clock(), self._most_cells)
        args = (packed.argument, *wire.pack_reserve(plan, packed, tenant, hold_id, ticket))
        granted_ms = plan.terms.granted_ms if hold_id and plan.leaves_hold else 0
        heard = self._hearing.opening if granted_ms else self._hearing.of("reserve")
        call = ScriptCall("reserve", tenant, hold_id, args, packed.window_keys, heard)
        try:
            reply = await self._run(call, within_s * (1 - LOOK_UP_SHARE))
        except StoreUnavailableError as error:
            return await self._missed(plan, hold_id, within_s * LOOK_UP_SHARE, error)
        match reply:
            case [1, now_ms, rows]:
                lease_ends_at_ms = now_ms + granted_ms if granted_ms else 0
                return Granted(now_ms, packed.form.looks(rows, now_ms, packed.form.taken(plan.units)), lease_ends_at_ms)
            case [0, now_ms, rows]:
                return Refused(now_ms, packed.form.looks(rows, now_ms))
            case [2, now_ms, record]:
                return self._replayed(plan, hold_id, now_ms, record)
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
            case [5, _]:
                raise too_many_cells(plan.operation.ref, self._most_cells)
            case [6, now_ms, rows, position, free] if ticket is not None:
                if free:
                    await self._reaping.reap(tenant, within_s)
                looks = packed.form.looks(rows, now_ms, packed.form.taken(plan.units))
                return Queued(now_ms, looks, position, ticket.lasts_ms)
        raise unreadable("reserve", reply)

    async def _missed(
        self, plan: Plan, hold_id: str, within_s: float, error: StoreUnavailableError
    ) -> Granted | Replayed:
        """What became of a reserve that got no answer, where its id tells; raises the error where it does not."""
        if hold_id and isinstance(error.__cause__, OutcomeUnknown):
            now_ms, _, record = await self._found(plan.operation.ref, hold_id, within_s)
            if record:
                return self._replayed(plan, hold_id, now_ms, record)
        raise error

    def _replayed(self, plan: Plan, hold_id: str, now_ms: int, record: bytes) -> Replayed:
        return Replayed(now_ms, records.hold_of(hold_id, record), wire.replayed_looks(plan, record, self._most_cells))

    async def look(self, plan: Plan, within_s: float) -> Looked | Stale:
        """The plan's figures."""
        tenant = keys.tenant_keys(plan.operation.ref)
        packed = wire.pack_plan(plan, tenant, self._clock(), self._most_cells)
        reply = await self._run(ScriptCall("usage", tenant, "", (packed.argument,), packed.window_keys), within_s)
        match reply:
            case [0, now_ms, rows]:
                return Looked(now_ms, packed.form.looks(rows, now_ms))
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
        raise unreadable("usage", reply)

    async def cycles(self, plan: Plan, within_s: float) -> Cycles | Stale:
        """The plan's figures, and the cycles of its quotas."""
        tenant = keys.tenant_keys(plan.operation.ref)
        packed = wire.pack_plan(plan, tenant, self._clock(), self._most_cells)
        reply = await self._run(ScriptCall("usage", tenant, "", (packed.argument, b"1"), packed.window_keys), within_s)
        match reply:
            case [0, now_ms, rows, *cells]:
                return Cycles(now_ms, packed.form.looks(rows, now_ms), tuple(map(cycles_of, cells)))
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
        raise unreadable("usage", reply)

    async def notes(self, ref: TenantRef, after: str, count: int, within_s: float) -> Sequence[Note]:
        """Notes, the oldest first."""
        begin = f"({after}" if after else "-"
        found = await self._plain(within_s, "XRANGE", keys.tenant_keys(ref).notes, begin, "+", "COUNT", count)
        return [note_of(note_id, fields) for note_id, fields in found]

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, hold_id: str, delivered: Delivered, *, final: bool, within_s: float, allocation: str = ""
    ) -> HoldOutcome:
        """Charges what was delivered. Named items cost one read more: their prices stand in the hold."""
        tenant = keys.tenant_keys(ref)
        started_s = monotonic()
        if isinstance(delivered, tuple):
            delivered = item_totals((await self._hold(ref, hold_id, within_s)), delivered)
        args = [wire.pack_settle(self._clock(), hold_id, delivered, final=final)]
        if allocation:
            args.append(allocation.encode())
        left_s = within_s - (monotonic() - started_s)
        reply = await self._run(ScriptCall("settle", tenant, hold_id, args), left_s)
        if leaves_turns(reply):
            await self._reaping.reap(tenant, within_s)
        return hold_outcome("settle", ref, hold_id, reply)

    async def release(self, ref: TenantRef, hold_id: str, within_s: float, act: Act | None = None) -> HoldOutcome:
        """Gives back what no report has charged."""
        tenant = keys.tenant_keys(ref)
        args = [sequences.pack([self._clock(), hold_id]), *([packed_act(act)] if act else [])]
        reply = await self._run(ScriptCall("release", tenant, hold_id, args), within_s)
        if leaves_turns(reply):
            await self._reaping.reap(tenant, within_s)
        return hold_outcome("release", ref, hold_id, reply)

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
        tenant = keys.tenant_keys(ref)
        meters: Sequence[str] = ()
        started_s = monotonic()
        if raised is None:
            packed, argument = None, sequences.pack([self._clock(), 0, 0, 0, self._most_cells, 0, 0, 0])
        else:
            meters = tuple((await self._hold(ref, hold_id, within_s)).meters)
            packed = wire.pack_plan(raised, tenant, self._clock(), self._most_cells)
            argument = packed.argument
        args = [argument, wire.pack_extend(hold_id, used, raised, packed, meters)]
        if start is not None:
            args.append(wire.pack_start(start, tenant))
        call = ScriptCall("extend", tenant, hold_id, args, packed.window_keys if packed else ())
        reply = await self._run(call, within_s - (monotonic() - started_s))
        match reply:
            case [0 | 1 as raised_all, now_ms, record, rows, taken]:
                looks = packed.form.looks(rows, now_ms, sequences.unpack(taken)) if packed and rows else ()
                return Extended(now_ms, records.hold_of(hold_id, record), looks, bool(raised_all))
            case [3, now_ms, record]:
                return Stale(now_ms, records.account_of(record))
            case [9, _]:
                return Overtaken()
            case [5, _, record]:
                raise not_active(records.hold_of(hold_id, record))
            case [6, _]:
                raise no_such_hold(ref, hold_id)
            case [7, _, meter]:
                raise no_such_meter("used" if meter.decode() in used else "amounts", hold_id, meter.decode())
            case [8, _, record]:
                raise raised_too_often(records.hold_of(hold_id, record))
        raise unreadable("extend", reply)

    async def find(self, ref: TenantRef, hold_id: str, within_s: float) -> Found:
        """The account and the hold."""
        now_ms, account, hold = await self._found(ref, hold_id, within_s)
        view = records.hold_of(hold_id, hold) if hold_id and hold else None
        return Found(now_ms, records.account_of(account), view)

    async def _found(self, ref: TenantRef, hold_id: str, within_s: float) -> list[Any]:
        """The time, and the records of the account and of the hold."""
        args = (sequences.pack([self._clock()]),)
        call = ScriptCall("find", keys.tenant_keys(ref), hold_id, args)
        return await self._evalsha("find", call.keys, args, within_s)

    async def write_account(self, ref: TenantRef, write: AccountWrite, within_s: float) -> Written | Conflict:
        """Changes an account and its balances in one step."""
        tenant = keys.tenant_keys(ref)
        args = [wire_money.pack_account_write(self._clock(), tenant.member, write)]
        if write.act is not None:
            args.append(packed_act(write.act))
        reply = await self._run(ScriptCall("account", tenant, "", args, (tenant.ids,)), within_s)
        match reply:
            case [1 | 2 as outcome, record, results, waits]:
                if waits and outcome == 1:
                    await self._reaping.reap(tenant, within_s)
                changed = dict(zip(write.grants, wire_money.results_of(results), strict=True))
                return Written(records.account_of(record), applied=outcome == 1, changed=changed)
            case [3, record]:
                return Conflict(records.account_of(record))
            case [5, _]:
                raise balance_too_large()
            case [6, _, _, _]:
                raise id_reused(write.write_id, ["content"])
            case [7, _]:
                raise too_many_grants()
            case [8, _]:
                raise grant_is_over()
            case [9, _]:
                raise being_deleted(ref)
        raise unreadable("account", reply)

    async def open_holds(
        self, ref: TenantRef, after: tuple[int, str], count: int, within_s: float
    ) -> Sequence[HoldView]:
        """Open holds by (lease end, id)."""
        tenant = keys.tenant_keys(ref)
        lease_end, last_id = after
        found: list[HoldView] = []
        offset = 0
        while len(found) < count:
            ids = await self._plain(
                within_s, "ZRANGEBYSCORE", tenant.due, lease_end, "+inf", "WITHSCORES", "LIMIT", offset, count
            )
            if not ids:
                break
            offset += count
            pairs = [(int(score), raw.decode()) for raw, score in zip(ids[::2], ids[1::2], strict=True)]
            wanted = [(s, i) for s, i in pairs if i not in keys.NO_HOLDS and (s, i) > (lease_end, last_id)]
            if wanted:
                raws = await self._plain(within_s, "MGET", *[tenant.hold(hold_id) for _, hold_id in wanted])
                views = [(score, records.hold_of(i, r)) for (score, i), r in zip(wanted, raws, strict=True) if r]
                found += [replace(view, lease_ends_at_ms=score) for score, view in views]
        return found[:count]

    async def ledger(self, ref: TenantRef, after: int, count: int, within_s: float) -> Sequence[LedgerEntry]:
        """Entries above a sequence."""
        stream = keys.tenant_keys(ref).ledger
        entries = await self._plain(within_s, "XRANGE", stream, f"(0-{after}", "+", "COUNT", count)
        return [wire_money.ledger_entry(int(entry.partition(b"-")[2]), fields[1]) for entry, fields in entries]

    async def trim_ledger(self, ref: TenantRef, through: int, within_s: float) -> int:
        """Drops entries, some at a time."""
        call = ScriptCall("trim", keys.tenant_keys(ref), "", (sequences.pack([through, TRIM_MOST]),))
        dropped, more = 0, True
        while more:
            more, count = await self._evalsha(call.name, call.keys, call.args, within_s)
            dropped += count
        return dropped

    async def audit(self, ref: TenantRef, cells: Sequence[str], within_s: float) -> Audit:
        """Balances with what stands behind them."""
        tenant = keys.tenant_keys(ref)

        async def page(passed_over: int) -> list[Any]:
            args = (sequences.pack([self._clock(), passed_over, *cells]),)
            return await self._run(ScriptCall("audit", tenant, "", args), within_s)

        return await audited(cells, page)

    async def sweep(self) -> int:
        """Expires overdue holds of idle tenants, slot by slot, by the index of tenants by earliest due.

        A tenant whose state cannot be read is passed over; when all others are swept, its CorruptStateError comes.
        """
        now_ms = self._clock() or await self._store_time_ms()
        expired = 0
        corrupt: CorruptStateError | None = None
        try:
            async for member in tenants_due(self._ask, now_ms):
                try:
                    expired += await self._reaping.reap(
                        keys.tenant_keys(keys.tenant_of(member)), SWEEP_WITHIN_S, BY_SWEEPER
                    )
                except CorruptStateError as error:
                    corrupt = error
                except InvalidRequestError:
                    continue  # of a policy that this server does not have: another one sweeps it
        except StoreError as error:
            raise fault_of("sweep", error) from error
        if corrupt is not None:
            raise corrupt
        return expired

    async def figures(self) -> StoreFigures:
        """Figures of all tenants together."""
        try:
            return await figures(self._ask)
        except StoreError as error:
            raise fault_of("figures", error) from error

    async def close(self) -> None:
        """Drops the connection."""
        await self._store.close()

    def _ask(self, *words: Word) -> Awaitable[Reply]:
        """A plain command that no caller waits for."""
        return self._store.call(*words, timeout_s=SWEEP_WITHIN_S)

    async def _store_time_ms(self) -> int:
        seconds, micros = await self._plain(SWEEP_WITHIN_S, "TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _hold(self, ref: TenantRef, hold_id: str, within_s: float) -> HoldView:
        hold = (await self.find(ref, hold_id, within_s)).hold
        if hold is None:
            raise no_such_hold(ref, hold_id)
        return hold

    async def _run(self, call: ScriptCall, within_s: float) -> list[Any]:
        """Runs a script; while it answers that holds are overdue, reaps and asks again."""
        time, all_keys = asyncio.get_running_loop().time, call.keys
        heard = call.heard or self._hearing.of(call.name)
        ends_at_s = time() + within_s
        left_s, vain = within_s, 0
        while left_s > 0:
            try:  # as `_evalsha` does, without a coroutine more: every decision comes by here
                reply: list[Any] = await self._store.evalsha(script(call.name), all_keys, call.args, left_s, heard)
            except StoreError as error:
                raise fault_of(call.name, error) from error
            if reply[0] != OVERDUE:
                return reply
            vain = 0 if await self._reaping.reap(call.tenant, ends_at_s - time()) else vain + 1
            if vain >= VAIN_REAPS:
                text = f"{call.name}: tenant {call.whose!r} has something overdue that no reap ends"
                raise CorruptStateError(text)
            left_s = ends_at_s - time()
        text = (
            f"{call.name}: no time was left for tenant {call.whose!r}, whose holds are overdue or whose store is slow"
        )
        raise StoreUnavailableError(text)

    async def _evalsha(
        self,
        name: str,
        all_keys: Sequence[bytes],
        args: Sequence[bytes],
        within_s: float,
        *,
        heard: Heard | None = None,
    ) -> list[Any]:
        heard = heard or self._hearing.of(name)
        try:
            reply: list[Any] = await self._store.evalsha(script(name), all_keys, args, within_s, heard)
        except StoreError as error:
            raise fault_of(name, error) from error
        return reply

    async def _plain(self, within_s: float, *words: Word) -> Any:  # noqa: ANN401  # whatever the command answers
        try:
            return await self._store.call(*words, timeout_s=within_s)
        except StoreError as error:
            raise fault_of(str(words[0]), error) from error
