"""Samples: where each is kept, what it is worth, what is no sample at all; and how sums are read."""

from typing import Any, Final

import pytest

from server.domain.cycle import Months
from server.domain.errors import InvalidRequestError
from server.domain.metered import DAY_MS, Per, Sampling, Way
from server.domain.sampling import LATE_MS, MAX_AHEAD_MS, Sample, entry_of, late_violation, slot_start_ms
from server.domain.units import MAX_AMOUNT

HOUR_MS: Final = 3_600_000
NOW_MS: Final = 1_775_822_400_000  # 2026-04-10T12:00:00Z
APRIL: Final = Months().cycle_of(NOW_MS)

RUNTIME: Final = Sampling(Way.RUNTIME, HOUR_MS, per=3600)
LEVEL: Final = Sampling(Way.LEVEL, 300_000, worth=300, times=1000, by=Per.CYCLE_SECONDS)
DAILY: Final = Sampling(Way.LEVEL, DAY_MS, times=1_000_000, by=Per.CYCLE_DAYS)
AMOUNT: Final = Sampling(Way.AMOUNT)


def runtime(**fields: Any) -> Sample:  # noqa: ANN401  # any field
    usual: dict[str, Any] = {"at_ms": NOW_MS, "resource": "e1", "size": 1000, "seconds": 60, "sequence": 1}
    return Sample("cu", **{"scope": {"project": "p1"}, **usual, **fields})


def test_sizes_of_one_resource_share_a_record_and_slots_do_not() -> None:
    one, other = entry_of(RUNTIME, runtime(), NOW_MS), entry_of(RUNTIME, runtime(size=250), NOW_MS)
    assert one.page == other.page
    assert (one.key, one.weight, one.number, one.page.bound) == (1000, 1000, 60, 3600)
    assert entry_of(RUNTIME, runtime(at_ms=NOW_MS - 1), NOW_MS).page != one.page
    assert entry_of(RUNTIME, runtime(at_ms=NOW_MS - 24 * HOUR_MS), NOW_MS).page != one.page
    assert entry_of(RUNTIME, runtime(resource="e2"), NOW_MS).page != one.page


def test_names_cannot_be_mistaken_for_each_other() -> None:
    one = entry_of(RUNTIME, runtime(scope={"project": "a|b"}, resource="c"), NOW_MS)
    other = entry_of(RUNTIME, runtime(scope={"project": "a"}, resource="b|c"), NOW_MS)
    assert one.page != other.page


def test_levels_of_sixteen_slots_share_a_record() -> None:
    entries = [
        entry_of(LEVEL, Sample("mb", {"project": "p1"}, NOW_MS + n * 300_000, size=7), NOW_MS + DAY_MS)
        for n in range(16)
    ]
    assert len({entry.page for entry in entries}) == 1
    assert [entry.key for entry in entries] == list(range(144, 160))
    assert {(entry.number, entry.weight) for entry in entries} == {(7, 300)}


def test_an_amount_is_kept_by_its_id_and_never_replaced() -> None:
    sample = Sample("tokens", {}, NOW_MS, sample_id="h1", units=9)
    entry = entry_of(AMOUNT, sample, NOW_MS)
    assert (entry.page.fixed, entry.number, entry.weight) == (True, 9, 1)
    later = entry_of(AMOUNT, sample, NOW_MS + 35 * DAY_MS)
    assert later.page.before == entry.page.record
    assert entry_of(AMOUNT, sample._replace(at_ms=NOW_MS - 1), NOW_MS).sequence != entry.sequence


def test_a_slot_belongs_to_the_cycle_in_which_it_begins() -> None:
    assert slot_start_ms(RUNTIME, runtime(at_ms=NOW_MS + 59)) == NOW_MS
    assert slot_start_ms(AMOUNT, Sample("tokens", {}, NOW_MS + 59)) == NOW_MS + 59


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"size": -1}, "size"),
        ({"seconds": 3601}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"sequence": -1}, "sequence"),
        ({"resource": ""}, "resource"),
        ({"at_ms": 0}, "at_ms"),
        ({"at_ms": -5}, "at_ms"),
        ({"at_ms": NOW_MS + MAX_AHEAD_MS + 1}, "at_ms"),
        ({"size": MAX_AMOUNT, "seconds": 2}, "size"),
        ({"units": 1}, "units"),
        ({"sample_id": "x"}, "id"),
    ],
)
def test_what_is_no_sample_is_named(fields: dict[str, Any], bad: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        entry_of(RUNTIME, runtime(**fields), NOW_MS)
    assert [violation.field for violation in caught.value.violations] == [bad]


def test_the_last_instants_that_are_taken() -> None:
    entry_of(RUNTIME, runtime(at_ms=NOW_MS + MAX_AHEAD_MS), NOW_MS)
    assert late_violation(APRIL.end_ms, APRIL.end_ms + LATE_MS - 1) is None
    assert late_violation(APRIL.end_ms, APRIL.end_ms + LATE_MS) is not None


def test_sums_are_read_exactly_and_rounded_down() -> None:
    assert RUNTIME.read(60_000, *APRIL) == 16
    assert LEVEL.read(2000 * 300, *APRIL) == 231
    assert LEVEL.read(2000 * 300 * 8640, *APRIL) == 2_000_000
    assert DAILY.read(3 * 30, *APRIL) == 3_000_000
    assert DAILY.read(1, *Months().cycle_of(NOW_MS - 60 * DAY_MS)) == 1_000_000 // 28


@pytest.mark.parametrize("sampling", [RUNTIME, LEVEL, DAILY, AMOUNT])
@pytest.mark.parametrize("shown", [0, 1, 7, 99_999, 10_000_001])
def test_a_limit_is_the_first_sum_that_is_read_as_so_much(sampling: Sampling, shown: int) -> None:
    kept = sampling.kept(shown, *APRIL)
    assert sampling.read(kept, *APRIL) >= shown
    assert kept == 0 or sampling.read(kept - 1, *APRIL) < shown
