"""Samples and allocations in Redis."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgpack

from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef
from server.domain.sampling import Outcome, Page
from server.engine import keys, quota_cells, records, sequences
from server.engine.books import Booked, Booking, Outdated, Target
from server.engine.faults import too_many_cells
from server.engine.replies import unreadable

CallScript = Callable[[str, Sequence[bytes], Sequence[bytes], float], Awaitable[list[Any]]]


class RedisBooks:
    """Asks the store by the engine's own means, which give each failure its error."""

    def __init__(self, call_script: CallScript, clock: Callable[[], int], most_cells: int) -> None:
        self._call_script = call_script
        self._clock = clock
        self._most_cells = most_cells

    async def record(self, ref: TenantRef, booking: Booking, within_s: float) -> Booked | Outdated:
        """Books samples in one call of the script."""
        tenant = keys.tenant_keys(ref)
        argument = pack_record(self._clock(), self._most_cells, booking)
        names = (tenant.cells, tenant.account, tenant.due, tenant.due_index)
        reply = await self._call_script("record", names, (argument,), within_s)
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


def pack_record(now_ms: int, most_cells: int, booking: Booking) -> bytes:
    """The argument of `record.lua`."""
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
    packed: bytes = msgpack.packb([now_ms, booking.version, most_cells, cells, pages, samples], use_bin_type=False)
    return packed


def _cell(target: Target) -> tuple[object, ...]:
    check = target.check
    assert check.terms is not None  # noqa: S101  # targets are quotas
    assert isinstance(check.limit, Quota)  # noqa: S101  # same
    cycle = quota_cells.packed_cycle(check.terms.start_ms, check.limit.thresholds)
    return keys.standing_field(check), check.cap, quota_cells.packed_terms(check.terms), cycle, int(target.over)
