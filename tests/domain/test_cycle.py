"""Billing cycles: every start day of forty years, short months, time zones, daylight saving, the ends of time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.cycle import Cycle, Months, day_of_month
from server.domain.units import FOREVER_MS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
ZONES = [
    "UTC",
    "Africa/Cairo",
    "America/Havana",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Pacific/Kiritimati",
]


def ms(text: str) -> int:
    """Milliseconds since the epoch of a time written in ISO 8601."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


def starts(months: Months, from_ms: int, count: int) -> list[str]:
    """The first days of cycles, the one of `from_ms` first, as UTC dates."""
    cycle = months.cycle_of(from_ms)
    dates = []
    for _ in range(count):
        dates.append((EPOCH + timedelta(milliseconds=cycle.start_ms)).strftime("%Y-%m-%dT%H:%M"))
        cycle = months.cycle_of(cycle.end_ms)
    return dates


def expected_starts(created: datetime, count: int) -> list[datetime]:
    """Where cycles begin, found by walking through the calendar one day at a time."""
    found: list[datetime] = []
    day = created
    while len(found) < count:
        tomorrow = day + timedelta(days=1)
        last_of_month = tomorrow.month != day.month
        if day.day == created.day or (last_of_month and day.day < created.day):
            found.append(day)
        day = tomorrow
    return found


def test_every_start_day_over_forty_years_is_followed_by_the_cycles_that_a_calendar_shows() -> None:
    """14,610 creation dates, each with its next fourteen cycles: more than a year, so every month's length is met."""
    day = datetime(2000, 1, 1, tzinfo=UTC)
    while day < datetime(2040, 1, 1, tzinfo=UTC):
        created_ms = (day - EPOCH) // timedelta(milliseconds=1) + DAY_MS // 2
        months = Months(day_of_month(created_ms))
        cycle = months.cycle_of(created_ms)
        for start in expected_starts(day, 14):
            assert cycle.start_ms == (start - EPOCH) // timedelta(milliseconds=1), (day, start)
            cycle = months.cycle_of(cycle.end_ms)
        day += timedelta(days=1)


def test_each_anchor_day_keeps_its_day_through_forty_years() -> None:
    """The 31st comes back after every short month, for ever."""
    for anchor in range(1, 32):
        months = Months(anchor)
        cycle = months.cycle_of(ms("2000-01-31T12:00:00+00:00"))
        for _ in range(40 * 12):
            start = EPOCH + timedelta(milliseconds=cycle.start_ms)
            next_day = start + timedelta(days=1)
            assert start.day == anchor or (start.day < anchor and next_day.month != start.month)
            cycle = months.cycle_of(cycle.end_ms)


def test_the_thirty_first_of_january() -> None:
    """28 or 29 February, 31 March, 30 April."""
    months = Months(day_of_month(ms("2026-01-31T10:00:00+00:00")))
    assert starts(months, ms("2026-01-31T10:00:00+00:00"), 4) == [
        "2026-01-31T00:00",
        "2026-02-28T00:00",
        "2026-03-31T00:00",
        "2026-04-30T00:00",
    ]
    assert starts(months, ms("2028-02-15T00:00:00+00:00"), 2) == ["2028-01-31T00:00", "2028-02-29T00:00"]


@given(
    now_ms=st.integers(0, ms("2100-01-01T00:00:00+00:00")),
    day=st.integers(1, 31),
    zone=st.sampled_from(ZONES),
)
def test_cycles_cover_time_without_gap_or_overlap(now_ms: int, day: int, zone: str) -> None:
    """An instant is in its cycle; every instant of a cycle finds that cycle; neighbours meet at one instant."""
    months = Months(day, ZoneInfo(zone))
    cycle = months.cycle_of(now_ms)
    assert cycle.start_ms <= now_ms < cycle.end_ms
    assert months.cycle_of(cycle.start_ms) == cycle
    assert months.cycle_of(cycle.end_ms - 1) == cycle
    following = months.cycle_of(cycle.end_ms)
    assert following.start_ms == cycle.end_ms
    assert months.before(following) == cycle
    assert 27 * DAY_MS < cycle.end_ms - cycle.start_ms < 32 * DAY_MS or cycle.start_ms == 0


def test_a_cycle_begins_at_local_midnight_across_daylight_saving() -> None:
    """In New York clocks go forward on 8 March 2026: cycles of the 5th begin at 05:00 and then at 04:00 UTC."""
    months = Months(5, ZoneInfo("America/New_York"))
    assert starts(months, ms("2026-02-20T00:00:00+00:00"), 3) == [
        "2026-02-05T05:00",
        "2026-03-05T05:00",
        "2026-04-05T04:00",
    ]


def test_a_midnight_that_does_not_exist_gives_way_to_the_instant_of_the_change() -> None:
    """In Beirut clocks went from 00:00 to 01:00 on 26 March 2023, which is 22:00 UTC the day before."""
    months = Months(26, ZoneInfo("Asia/Beirut"))
    assert months.cycle_of(ms("2023-03-26T12:00:00+00:00")).start_ms == ms("2023-03-25T22:00:00+00:00")


def test_of_two_midnights_the_first_counts() -> None:
    """In Havana 00:00 to 01:00 happened twice on 6 November 2022: first at UTC-4."""
    months = Months(6, ZoneInfo("America/Havana"))
    assert months.cycle_of(ms("2022-11-06T12:00:00+00:00")).start_ms == ms("2022-11-06T04:00:00+00:00")


def test_a_day_that_a_country_skipped_begins_when_the_next_one_does() -> None:
    """Samoa had no 30 December 2011."""
    months = Months(30, ZoneInfo("Pacific/Apia"))
    assert months.cycle_of(ms("2012-01-10T00:00:00+00:00")).start_ms == ms("2011-12-30T10:00:00+00:00")


@pytest.mark.parametrize(("zone", "day"), [("UTC", 31), ("Asia/Tokyo", 1), ("America/Los_Angeles", 31)])
def test_an_anchor_is_the_date_that_its_own_zone_shows(zone: str, day: int) -> None:
    """22:00 UTC on 31 January is 1 February in Tokyo."""
    assert day_of_month(ms("2026-01-31T22:00:00+00:00"), ZoneInfo(zone)) == day


@pytest.mark.parametrize("now_ms", [-1, 0, 1])
def test_the_first_cycle_begins_with_the_epoch(now_ms: int) -> None:
    """Nothing is before it, so it is its own predecessor."""
    cycle = Months(31).cycle_of(now_ms)
    assert cycle == Cycle(0, 30 * DAY_MS)
    assert Months(31).before(cycle) == cycle


def test_the_last_cycle_never_ends() -> None:
    """Past the years that a calendar can show there is one cycle more, for ever."""
    last = Months(15).cycle_of(ms("9998-12-20T00:00:00+00:00"))
    assert last == Cycle(ms("9998-12-15T00:00:00+00:00"), FOREVER_MS)
    assert Months(15).cycle_of(FOREVER_MS - 1) == last
