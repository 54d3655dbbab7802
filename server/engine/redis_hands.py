"""What operators do, in Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

from server.domain.act import Act, AuditLine
from server.domain.ledger import Cause
from server.domain.limits import Balance, Quota, Window
from server.domain.operation import TenantRef
from server.engine import keys, quota_cells, records, sequences
from server.engine.acts import line_of, packed_act
from server.engine.books import Outdated
from server.engine.faults import adjusted_too_far, id_reused
from server.engine.hands import Adjusted, Adjustment, Reset, WasReset
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
