"""Callers who tell what was used: samples of a meter, some sent again, some corrected, some too late."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import msgpack

from server.domain.limit_value import value_of
from server.domain.limits import Quota
from server.domain.plan import bare_form
from server.domain.sampling import Entry, Page
from server.engine.books import Booking, Target
from tests.policies_for_tests import HOUR_MS
from tests.simulation.asked import SCOPES, Ask, Asked, Drawn, Facts
from tests.store_state import cycles_in
from tests.tenants import WITHIN_S

Moved = tuple[bytes | None, bytes | None]
"""A value before and after a script."""
RecordName = tuple[bytes, bytes]
"""Of a record of samples: what its key has behind the tenant's `u:`, and the field."""

WEIGHT: Final = 2
"""Units that each number of a sample is worth."""
KEPT_MS: Final = 3000 * 24 * HOUR_MS
"""How long records are kept: longer than any episode, so that what was told is never forgotten in it."""
PAGES: Final = (
    Page("d1", "a", bound=20),
    Page("d1", "b"),
    Page("d2", "a"),
    Page("i9", "x", fixed=True, before="i8"),
    Page("i8", "x"),
)
GOES_ON_FROM: Final = {page.record.encode(): page.before.encode() for page in PAGES if page.before}
"""Records that begin with what stands in another one."""
MOST_SAMPLES, KEYS, SEQUENCES, MOST_NUMBER = 6, 3, 4, 12


class Sample(NamedTuple):
    """One: by the number of its page, its key there, its sequence, and its number."""

    page: int
    key: int
    sequence: int
    number: int


@dataclass(frozen=True)
class RecordUse(Asked):
    """Samples for all quotas of the policy, in this cycle or in the one before it."""

    samples: tuple[Sample, ...]
    scope: int
    ago: bool
    behind: int
    script = "record"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        samples = tuple(
            Sample(
                random.randrange(len(PAGES)),
                random.randrange(KEYS),
                random.randrange(SEQUENCES),
                random.randint(0, MOST_NUMBER),
            )
            for _ in range(random.randint(0, MOST_SAMPLES))
        )
        ago, behind = random.random() < 0.25, int(random.random() < 0.1)
        return cls(drawn.tenant(), samples, random.randrange(len(SCOPES)), ago, behind)

    def question(self, facts: Facts) -> Ask:
        account, now_ms = facts.account(self.tenant, self.behind), facts.now_ms()
        targets = []
        for quota in facts.policy.limits:
            if isinstance(quota, Quota):
                terms = quota.terms(account, now_ms)
                if self.ago:
                    terms = quota.terms(account, terms.start_ms - 1)
                scope = tuple(SCOPES[self.scope][name] for name in quota.scope)
                form = bare_form(quota, scope, value_of(quota, account, now_ms).value, terms)
                targets.append(Target(form, over=self.ago))
        places = tuple(range(len(targets)))
        entries = tuple(
            (Entry(PAGES[page], key, sequence, number, WEIGHT), places, now_ms + KEPT_MS)
            for page, key, sequence, number in self.samples
        )
        booking = Booking(account.version, tuple(targets), entries)
        return lambda engine: engine.books.record(self.ref, booking, WITHIN_S)


def check_samples(
    script: str,
    records: Mapping[RecordName, Moved],
    cells: Iterable[Moved],
    stored: Callable[[RecordName], bytes | None],
) -> str:
    """What is wrong with what a script made of records of samples and of quotas, by value before and after: each
    cycle's use changes by what the records do, to the unit, and no further below than nothing. `stored` is a record
    that did not change.
    """
    told = 0
    for (record, field), (before, after) in records.items():
        begins_with = before
        if before is None and record in GOES_ON_FROM:
            name = GOES_ON_FROM[record], field
            begins_with = records[name][0] if name in records else stored(name)
        told += WEIGHT * (_numbers_in(after) - _numbers_in(begins_with))
    if script != "record":
        return f"{script} changed records of samples" if told else ""
    for before, after in cells:
        was = {cycle["start"]: _used(cycle) for cycle in cycles_in(before or b"")}
        for cycle in cycles_in(after or b""):
            moved = _used(cycle) - was.get(cycle["start"], 0)
            if moved and not (moved == told or told < moved < 0):
                return f"samples of {told} units moved a quota by {moved}"
    return ""


def _numbers_in(record: bytes | None) -> int:
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(record or b"")
    return sum(list(unpacker)[2::3])


def _used(cycle: Mapping[str, int]) -> int:
    return cycle["within"] + cycle["overage"] + cycle["grace"] + cycle["over_hard"]
