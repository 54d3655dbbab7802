"""Billing cycles: months that begin on a day of the month, in a time zone. Pure arithmetic.

A cycle begins at 00:00 local time on its day, or on a short month's last day: from 31 January the next ones begin on
28 or 29 February, 31 March and 30 April, for ever. It covers [start, end), and its end is the next one's start. Where
daylight saving leaves 00:00 out, the cycle begins at the instant of the change; where it makes 00:00 happen twice, at
the first. A calendar month is a cycle that begins on day 1.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple

from server.domain.units import FOREVER_MS

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_LAST_YEAR: Final = 9998
_LAST_MS: Final = (datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_MONTHS: Final = 12
_LAST_MONTH: Final = _LAST_YEAR * _MONTHS + _MONTHS - 1


class Cycle(NamedTuple):
    """The instants from `start_ms` (inclusive) to `end_ms` (exclusive), in milliseconds since the epoch."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Months:
    """Cycles of one month that begin on `day` (1 to 31) at 00:00 in `zone`.

    They cover all time: the first begins with the epoch, and the last, in the year 9998, never ends.
    """

    day: int = 1
    zone: tzinfo = UTC

    def cycle_of(self, now_ms: int) -> Cycle:
        """The cycle that `now_ms` falls into; an instant on a bound belongs to the cycle that begins there."""
        if now_ms >= _LAST_MS:
            return Cycle(self._start_ms(_LAST_MONTH), FOREVER_MS)
        local = (_EPOCH + max(now_ms, 0) * _MILLISECOND).astimezone(self.zone)
        month = local.year * _MONTHS + local.month - 1
        if self._start_ms(month) > now_ms:
            month -= 1
        elif self._start_ms(month + 1) <= now_ms:
            month += 1
        return Cycle(max(self._start_ms(month), 0), self._start_ms(month + 1))

    def before(self, cycle: Cycle) -> Cycle:
        """The cycle that ends where `cycle` begins; the first one itself, as none is before it."""
        return self.cycle_of(cycle.start_ms - 1)

    def _start_ms(self, month: int) -> int:
        """Where the cycle of a month begins; months are counted from year 0."""
        if month > _LAST_MONTH:
            return FOREVER_MS
        year, index = divmod(month, _MONTHS)
        day = min(self.day, monthrange(year, index + 1)[1])
        # fold=0: the earlier of two, and for a time that does not exist the offset from before the change.
        start = datetime(year, index + 1, day, tzinfo=self.zone)
        return (start.astimezone(UTC) - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=65_536)  # asked for with every request
def day_of_month(at_ms: int, zone: tzinfo = UTC) -> int:
    """The day of the month of an instant, as people in `zone` date it: what cycles anchored there begin on."""
    return (_EPOCH + min(max(at_ms, 0), _LAST_MS) * _MILLISECOND).astimezone(zone).day
