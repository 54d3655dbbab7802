"""What operators do, in Redis."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final

import msgpack

from server.domain.act import Act, AuditLine
from server.domain.ledger import Cause, Totals
from server.domain.limits import Balance, Quota, Window
from server.domain.operation import TenantRef
from server.domain.reconcile import BalanceState
from server.engine import keys, quota_cells, records, sequences
from server.engine.acts import line_of, packed_act
from server.engine.books import Outdated
from server.engine.faults import adjusted_too_far, id_reused, tenant_in_use
from server.engine.hands import Adjusted, Adjustment, Deletion, Reset, WasReset
from server.engine.pipeline import Word
from server.engine.replies import unreadable
from server.engine.store_calls import ScriptCall

RunScript = Callable[[ScriptCall, float], Awaitable[list[Any]]]
"""Runs a script; what is overdue is done before."""

Plain = Callable[..., Awaitable[Any]]
"""A plain command: the seconds that it may take, and its words."""

READ_AT_ONCE: Final = 1000
"""Lines that one call reads."""

BATCH: Final = 512
"""Slots that are looked at in one write."""


SCANNED_AT_ONCE: Final = 1000
"""Keys that one step of a deletion looks at: less than a millisecond of the store's time."""

SCANS_AT_ONCE: Final = 20
"""Such steps in one call."""

RELEASED_AT_ONCE: Final = 100
"""Holds that are released between two attempts to begin a deletion."""

BEGIN, SWEEP, END = 0, 1, 2
"""The phases of a deletion."""

NOTHING, BEGUN, OPEN = 0, 1, 5
"""How far a deletion has begun: there is nothing, it has, or more holds are open than there was time for."""

AGAIN: Final = "again"
"""The place of a deletion that has not begun yet."""


class RedisHands:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(self, run: RunScript, plain: Plain, clock: Callable[[], int]) -> None:
        self._run = run
        self._plain = plain
        self._clock = clock

    async def reset(
        self, ref: TenantRef, reset: Reset, act: Act, fingerprint: bytes, within_s: float
    ) -> WasReset | Outdated:
        """Forgets what was counted."""
        tenant, check, limit = keys.tenant_keys(ref), reset.check, reset.check.limit
        head = [self._clock(), act.request_id, fingerprint]
        if isinstance(limit, Window):
            values = [*head, limit.cell, 0, limit.window_ms]
            further: tuple[bytes, ...] = (tenant.ids, tenant.windows(keys.scope_text(check)))
        else:
            assert check.terms is not None  # noqa: S101  # of a quota
            field = limit.cell if reset.every else keys.standing_field(check)
            values = [*head, field, int(reset.every), 0, reset.version, check.terms.start_ms, check.terms.end_ms]
            further = (tenant.ids, tenant.windows(""))
        args = (sequences.pack(values), packed_act(act))
        match await self._run(ScriptCall("reset", tenant, "", args, further), within_s):
            case [1 | 2 as outcome, _, cells, counted]:
                return WasReset(outcome == 1, cells, counted)
            case [3, now_ms, record]:
                return Outdated(now_ms, records.account_of(record))
            case [6, _]:
                raise id_reused(act.request_id, ["content"])
            case reply:
                raise unreadable("reset", reply)

    async def adjust(
        self, ref: TenantRef, adjustment: Adjustment, act: Act, fingerprint: bytes, within_s: float
    ) -> Adjusted | Outdated:
        """Changes a quota's use or a balance."""
        tenant, check = keys.tenant_keys(ref), adjustment.check
        field = keys.standing_field(check)
        values = [self._clock(), act.request_id, fingerprint, field, adjustment.units]
        args = (sequences.pack([*values, adjustment.version, *_terms(adjustment)]), packed_act(act))
        match await self._run(ScriptCall("adjust", tenant, "", args, (tenant.ids,)), within_s):
            case [1 | 2 as outcome, _, before, after]:
                return Adjusted(outcome == 1, before, after)
            case [3, now_ms, record]:
                return Outdated(now_ms, records.account_of(record))
            case [5, _]:
                raise adjusted_too_far()
            case [6, _]:
                raise id_reused(act.request_id, ["content"])
            case reply:
                raise unreadable("adjust", reply)

    async def repair(
        self, ref: TenantRef, totals: Mapping[str, Totals], seen: Mapping[str, BalanceState], act: Act, within_s: float
    ) -> bool:
        """Writes totals over what was seen."""
        values = [value for cell, right in totals.items() for value in (cell, seen[cell].cell, *right)]
        args = (sequences.pack([self._clock(), *values]), packed_act(act))
        reply = await self._run(ScriptCall("repair", keys.tenant_keys(ref), "", args), within_s)
        return bool(reply[0])

    async def delete(self, ref: TenantRef, act: Act, *, forced: bool, place: str, within_s: float) -> Deletion:
        """Deletes a tenant. A place is a cursor over all keys; behind a ? while nothing of the tenant was found yet."""
        tenant, slow_at_s = keys.tenant_keys(ref), monotonic() + within_s / 2
        begun, holds, removed = False, 0, 0
        if not place or place == AGAIN:
            state, holds = await self._begin(tenant, act, forced=forced, found=False, slow_at_s=slow_at_s)
            if state == OPEN:
                return Deletion(applied=False, holds=holds, keys=0, place=AGAIN)
            begun, place = state == BEGUN, "?" if state == NOTHING else ""
        seeks, cursor = place.startswith("?"), place.removeprefix("?") or "0"
        for _ in range(SCANS_AT_ONCE):
            cursor_read, found = await self._plain(within_s, "SCAN", cursor, *_of(tenant), "COUNT", SCANNED_AT_ONCE)
            cursor = cursor_read.decode()
            if found and seeks:
                state, holds = await self._begin(tenant, act, forced=forced, found=True, slow_at_s=slow_at_s)
                return Deletion(state == BEGUN, holds, 0, AGAIN if state == OPEN else "0")
            if names := [key.removeprefix(tenant.prefix) for key in found if key != tenant.cells]:
                removed += await self._in_deletion(tenant, SWEEP, within_s, msgpack.packb(names, use_bin_type=False))
            if cursor == "0" or monotonic() > slow_at_s:
                break
        if cursor != "0":
            return Deletion(begun, holds, removed, f"?{cursor}" if seeks else cursor)
        if not seeks:
            await self._in_deletion(tenant, END, within_s)
        return Deletion(begun, holds, removed, "")

    async def _in_deletion(self, tenant: keys.TenantKeys, phase: int, within_s: float, *names: bytes) -> int:
        """A step of a deletion that has begun; the keys that it removed, none where there is no such deletion."""
        match await self._run(_deleting(tenant, [self._clock(), phase, 0, 0, 0], *names), within_s):
            case [1, _, int(count)]:
                return count
            case [0, _]:
                return 0
            case reply:
                raise unreadable("delete", reply)

    async def _begin(
        self, tenant: keys.TenantKeys, act: Act, *, forced: bool, found: bool, slow_at_s: float
    ) -> tuple[int, int]:
        """What the script answers, and how many holds have ended. More than one call ends are released before."""
        ended = 0
        while (left_s := slow_at_s - monotonic()) > 0:
            values = [self._clock(), BEGIN, int(forced), int(found), ended]
            match await self._run(_deleting(tenant, values, packed_act(act)), left_s):
                case [1, _, holds]:
                    return BEGUN, ended + holds
                case [0 | 2 as state, _]:
                    return state, ended
                case [5, _, holds] if not forced:
                    raise tenant_in_use(keys.tenant_of(tenant.member), holds)
                case [5, _, _]:
                    for raw in await self._plain(left_s, "ZRANGE", tenant.due, 0, RELEASED_AT_ONCE):
                        hold_id = raw.decode()
                        args = (sequences.pack([self._clock(), hold_id]),)
                        reply = await self._run(ScriptCall("release", tenant, hold_id, args), left_s)
                        ended += reply[0] == 1
                case reply:
                    raise unreadable("delete", reply)
        return OPEN, ended

    async def acts(self, ref: TenantRef, after: str, count: int, within_s: float) -> tuple[Sequence[AuditLine], str]:
        """Lines of the audit trail. A place is an id, or, where all tenants are asked for, slot/id."""
        if ref.tenant:
            return await self._acts_in(keys.tenant_keys(ref).acts, ref, after, count, within_s)
        slot_text, _, after = after.rpartition("/")
        index, lines, slow_at_s = list(keys.acts_keys()), list[AuditLine](), monotonic() + within_s / 2
        for start in range(int(slot_text or 0), keys.SLOTS, BATCH):
            batch = index[start : start + BATCH]
            lengths = await asyncio.gather(*(self._plain(within_s, "XLEN", key) for key in batch))
            for slot, key in enumerate(batch, start):
                if not lengths[slot - start]:
                    continue
                found, place = await self._acts_in(key, ref, after, count - len(lines), within_s)
                lines += found
                after = ""
                if place or len(lines) == count:
                    return lines, f"{slot}/{place}" if place else f"{slot + 1}/"
            if monotonic() > slow_at_s and start + BATCH < keys.SLOTS:
                return lines, f"{start + BATCH}/"
        return lines, ""

    async def _acts_in(
        self, key: bytes, ref: TenantRef, after: str, count: int, within_s: float
    ) -> tuple[Sequence[AuditLine], str]:
        """Of one slot's lines, those that are asked for."""
        begin = f"({after}" if after else "-"
        entries = await self._plain(within_s, "XRANGE", key, begin, "+", "COUNT", READ_AT_ONCE)
        read = [line_of(*entry) for entry in entries]
        found = [line for line in read if line.ref == ref or (not ref.tenant and line.ref.policy == ref.policy)]
        if len(found) > count:
            return found[:count], found[count - 1].line_id
        return found, read[-1].line_id if len(read) == READ_AT_ONCE else ""


def _deleting(tenant: keys.TenantKeys, values: Sequence[int], *act: bytes) -> ScriptCall:
    return ScriptCall("delete", tenant, "", (sequences.pack(values), *act))


def _of(tenant: keys.TenantKeys) -> tuple[Word, ...]:
    """Which keys are the tenant's, as SCAN wants it."""
    return "MATCH", re.sub(rb"([*?\[\]\\^-])", rb"\\\1", tenant.prefix) + b"*"


def _terms(adjustment: Adjustment) -> list[object]:
    """What the script needs to know of the limit."""
    check = adjustment.check
    match check.limit:
        case Quota() as quota:
            assert check.terms is not None  # noqa: S101  # of a quota
            cycle = quota_cells.packed_cycle(check.terms.start_ms, quota.thresholds)
            terms = quota_cells.packed_terms(check.terms)
            return [1, int(adjustment.sets), check.cap, terms, cycle]
        case Balance() as balance:
            return [0, Cause.ADJUST, int(balance.ledger), balance.debt, sequences.pack(check.marks)]
    raise TypeError(f"limit {check.limit.id!r} is neither a quota nor a balance")
