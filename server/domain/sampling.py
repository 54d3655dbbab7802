"""Samples of use: which record a sample belongs to, and what it is worth. Pure.

A sample is named by what it measures and by its sequence, not by its delivery: of all samples of one slot the highest
sequence counts, so repeats and late arrivals change nothing.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import quote
from zlib import crc32

from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.metered import DAY_MS, Sampling, Way
from server.domain.operation import text_violations
from server.domain.units import MAX_AMOUNT

MAX_AHEAD_MS: Final = 300_000
"""How far a sample may lie in the future."""

LATE_MS: Final = 72 * 3_600_000
"""How long a cycle that has ended takes samples."""

SLOTS_PER_PAGE: Final = 16
"""Slots of a level that are kept in one record."""

MOST_ENTRIES: Final = 64
"""Sizes that one resource may have run at in one slot."""

FIXED_MS: Final = 35 * DAY_MS
"""Ids of amounts are remembered by when they came, for one to two times this long: longer than their cycle takes
samples.
"""


class Sample(NamedTuple):
    """One measurement, as a caller reports it; what does not belong to the meter's way is 0 or empty."""

    meter: str
    scope: Mapping[str, str]
    at_ms: int
    resource: str = ""
    size: int = 0
    seconds: int = 0
    sequence: int = 0
    sample_id: str = ""
    units: int = 0

    @property
    def name(self) -> str:
        """What it measures, in words, for whoever sent it."""
        scope = "".join(f", {name} {value!r}" for name, value in sorted(self.scope.items()))
        if self.sample_id:
            return f"{self.meter} sample {self.sample_id!r}"
        resource = f", resource {self.resource!r}" if self.resource else ""
        return f"{self.meter} at {self.at_ms}{scope}{resource}, sequence {self.sequence}"


class Outcome(StrEnum):
    """What became of a sample; the letters are those of `lua/record.lua`."""

    APPLIED = "A"
    REPEATED = "R"
    OUTDATED = "O"
    REUSED = "X"
    TOO_LONG = "L"
    TOO_MANY = "M"
    TOO_LARGE = "S"


class Page(NamedTuple):
    """A record of samples that belong together: it is field `field` of the tenant's records `record`.

    Its numbers add up to `bound` at most (0: any sum). Of `fixed` ones an entry is never replaced, and `before` names
    the records in which they were kept before.
    """

    record: str
    field: str
    bound: int = 0
    fixed: bool = False
    before: str = ""


class Entry(NamedTuple):
    """A sample in its page: `key` tells it from its neighbours, `number` of it is worth `weight` units each."""

    page: Page
    key: int
    sequence: int
    number: int
    weight: int


def slot_start_ms(sampling: Sampling, sample: Sample) -> int:
    """The instant that a sample's cycle is chosen by: a slot belongs to the cycle in which it begins."""
    return sample.at_ms // sampling.slot_ms * sampling.slot_ms if sampling.slot_ms else sample.at_ms


def entry_of(sampling: Sampling, sample: Sample, now_ms: int) -> Entry:
    """Where a sample is kept, and what it is worth; raises with every field that is wrong."""
    if bad := _violations(sampling, sample, now_ms):
        raise InvalidRequestError(bad)
    scope = "&".join(f"{name}={quote(value, safe=' ')}" for name, value in sorted(sample.scope.items()))
    resource = quote(sample.resource, safe=" ")
    if sampling.way is Way.AMOUNT:
        period = now_ms // FIXED_MS
        page = Page(f"i{period}", f"{sample.meter}|{sample.sample_id}", fixed=True, before=f"i{period - 1}")
        return Entry(page, 0, crc32(f"{scope}|{sample.at_ms}".encode()), sample.units, 1)
    day, within_ms = divmod(sample.at_ms, DAY_MS)
    slot = within_ms // sampling.slot_ms
    if sampling.way is Way.RUNTIME:
        page = Page(f"d{day}", f"{sample.meter}|{scope}|{resource}|{slot}", bound=sampling.slot_ms // 1000)
        return Entry(page, sample.size, sample.sequence, sample.seconds, sample.size)
    page = Page(f"d{day}", f"{sample.meter}|{scope}|{resource}|{slot // SLOTS_PER_PAGE}")
    return Entry(page, slot, sample.sequence, sample.size, sampling.worth)


_OWN: Final[Mapping[Way, frozenset[str]]] = {
    Way.RUNTIME: frozenset({"resource", "size", "seconds", "sequence"}),
    Way.LEVEL: frozenset({"resource", "size", "sequence"}),
    Way.AMOUNT: frozenset({"sample_id", "units"}),
}
"""The fields of a sample that belong to each way."""


def _violations(sampling: Sampling, sample: Sample, now_ms: int) -> list[FieldViolation]:
    bad: list[FieldViolation] = []
    own = _OWN[sampling.way]
    for name in ("resource", "size", "seconds", "sequence", "sample_id", "units"):
        value: int | str = getattr(sample, name)
        field = "id" if name == "sample_id" else name
        if name not in own:
            if value:
                text = f"does not belong to meter {sample.meter!r}, which is sampled by {sampling.way}"
                bad.append(FieldViolation(field, text))
        elif isinstance(value, str):
            required = name == "sample_id" or sampling.way is Way.RUNTIME
            bad += text_violations(field, value, required=required)
        elif not 0 <= value <= MAX_AMOUNT:
            bad.append(FieldViolation(field, f"is {value}; must be from 0 to 2^53 - 1"))
    if not 0 < sample.at_ms <= now_ms + MAX_AHEAD_MS:
        text = f"is {sample.at_ms}; must be a time up to 5 minutes ahead of {now_ms}, in ms since the epoch"
        bad.append(FieldViolation("at_ms", text))
    if sampling.way is Way.RUNTIME and sample.seconds > sampling.slot_ms // 1000:
        text = f"is {sample.seconds}; a slot of meter {sample.meter!r} has {sampling.slot_ms // 1000} seconds"
        bad.append(FieldViolation("seconds", text))
    worth = sample.size * (sample.seconds if sampling.way is Way.RUNTIME else sampling.worth)
    if not bad and worth > MAX_AMOUNT:
        bad.append(FieldViolation("size", "makes a sample worth more than 2^53 - 1 units"))
    return bad


def late_violation(end_ms: int, now_ms: int) -> FieldViolation | None:
    """Why a sample of a cycle that ended is no longer taken, if so."""
    if now_ms < end_ms + LATE_MS:
        return None
    return FieldViolation("at_ms", f"is of a cycle that ended at {end_ms} and took samples until 72 hours after that")
