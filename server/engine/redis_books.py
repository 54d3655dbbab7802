"""Samples and allocations in Redis."""

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

import msgpack

from server.domain.allowances import LooksOf
from server.domain.errors import AccountChangedError
from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef
from server.domain.sampling import Outcome, Page
from server.engine import keys, quota_cells, records, sequences
from server.engine.books import Booked, Booking, Outdated, Target
from server.engine.faults import too_many_cells
from server.engine.pipeline import StoreCaller
from server.engine.replies import fault_of, unreadable
from server.engine.store_errors import StoreError

LOOK_ROUNDS: Final = 8
"""Times that a look at thresholds begins anew because the account changed meanwhile."""

CallScript = Callable[[str, Sequence[bytes], Sequence[bytes], float], Awaitable[list[Any]]]


class RedisBooks:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(
        self, call_script: CallScript, store: StoreCaller, clock: Callable[[], int], looks: LooksOf, most_cells: int
    ) -> None:
        self._call_script = call_script
        self._store = store
        self._clock = clock
        self._looks = looks
        self._most_cells = most_cells

    async def record(self, ref: TenantRef, booking: Booking, within_s: float) -> Booked | Outdated:
        """Books samples in one call of the script."""
        return await self._record(ref, booking, (), within_s)

    async def note_thresholds(self, ref: TenantRef, within_s: float) -> None:
        """Notes what is reached by now, for the account and the cells as they are now."""
        tenant, ends_at_s = keys.tenant_keys(ref), monotonic() + within_s
        for _ in range(LOOK_ROUNDS):
            args = (sequences.pack([self._clock()]),)
            now_ms, record, _ = await self._call_script("find", (*tenant.fixed, tenant.hold("")), args, within_s)
            try:
                fields = await self._store.call("HKEYS", tenant.cells, timeout_s=ends_at_s - monotonic())
            except StoreError as error:
                raise fault_of("note_thresholds", error) from error
            account = records.account_of(record)
            checks, again_ms = self._looks(ref, account, now_ms, [keys.cell_of(field.decode()) for field in fields])
            version = account.version if account is not None else 0
            booking = Booking(version, tuple([Target(check, over=False) for check in checks]), ())
            if isinstance(await self._record(ref, booking, (again_ms,), ends_at_s - monotonic()), Booked):
                return
        raise AccountChangedError(f"account {ref.tenant!r} changed {LOOK_ROUNDS} times meanwhile")

    async def _record(
        self, ref: TenantRef, booking: Booking, again: Sequence[int], within_s: float
    ) -> Booked | Outdated:
        tenant = keys.tenant_keys(ref)
        argument = pack_record(self._clock(), self._most_cells, booking, again)
        reply = await self._call_script("record", tenant.fixed, (argument,), within_s)
        match reply:
            case [1, now_ms, outcomes]:
                return Booked(now_ms, [Outcome(letter) for letter in outcomes.decode()])
            case [3, now_ms, record]:
                return Outdated(now_ms, records.account_of(record))
            case [5, _]:
                raise too_many_cells(ref, self._most_cells)
        raise unreadable("record", reply)

    async def release_allocation(self, ref: TenantRef, name: str, cell: str, within_s: float) -> bool:
        """Gives back a standing allocation."""
        args = (sequences.pack([name, cell]),)
        (given,) = await self._call_script("deallocate", (keys.tenant_keys(ref).cells,), args, within_s)
        return bool(given)


def pack_record(now_ms: int, most_cells: int, booking: Booking, again: Sequence[int] = ()) -> bytes:
    """The argument of `record.lua`; `again` is when it is to look again, of one that only looks."""
    places: dict[Page, int] = {}
    pages: list[tuple[object, ...]] = []
    samples: list[tuple[int, ...]] = []
    for entry, targets, until_ms in booking.entries:
        page = entry.page
        place = places.get(page)
        if place is None:
            place = places[page] = len(places) + 1
            pages.append((page.record, page.before, page.field, until_ms, page.bound, int(page.fixed)))
        samples.append((place, entry.key, entry.sequence, entry.number, entry.weight, *(at + 1 for at in targets)))
    cells = [_cell(target) for target in booking.targets]
    values = [now_ms, booking.version, most_cells, cells, pages, samples, *again]
    packed: bytes = msgpack.packb(values, use_bin_type=False)
    return packed


def _cell(target: Target) -> tuple[object, ...]:
    check = target.check
    assert check.terms is not None  # noqa: S101  # targets are quotas
    assert isinstance(check.limit, Quota)  # noqa: S101  # same
    cycle = quota_cells.packed_cycle(check.terms.start_ms, check.limit.thresholds)
    return keys.standing_field(check), check.cap, quota_cells.packed_terms(check.terms), cycle, int(target.over)
