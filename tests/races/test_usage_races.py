"""Many reports of use at once, over several connections, on real stores: exact sums, and one note per threshold."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest

from server.domain.limits import Quota
from server.domain.limits.quota import CycleUse
from server.domain.operation import Operation, TenantRef
from server.domain.plan import bare_form, usage_plan
from server.domain.policy import Policy
from server.domain.sampling import Entry, Outcome, Page
from server.engine.base import Cycles
from server.engine.books import Booked, Booking, Target
from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect
from tests.policies_for_tests import HOUR_MS, count, policy, quota
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore
from tests.tenants import EVERYWHERE, START_MS, WITHIN_S, Clock, Tenant

CONNECTIONS: Final = 8
REPORTS: Final = 200
RUNS: Final = 10
LIMIT: Final = 1000

METERED: Final = policy(
    quota("q", LIMIT, overage=None, thresholds=(80, 95, 100)), quota("each", None, scope=("project",))
)
CAPPED: Final = policy(count("projects", 3))
UNTIL_MS: Final = START_MS + 1000 * HOUR_MS


@pytest.fixture
async def engines(store: RunningStore, connect: Connect) -> AsyncIterator[Sequence[RedisEngine]]:
    clock = Clock()
    yield [RedisEngine(await connect(store), clock=clock) for _ in range(CONNECTIONS)]
    assert broken_rules(snapshot(store)) == []


def crowd_of(engines: Sequence[RedisEngine], rules: Policy, name: str) -> list[Tenant]:
    """The same tenant, as each of several processes knows it."""
    return [Tenant(engine, Clock(), rules, TenantRef("lab", name)) for engine in engines]


async def report(tenant: Tenant, *entries: Entry, project: str = "p") -> Sequence[Outcome]:
    """Books samples in both quotas of the policy."""
    targets = []
    for limit in tenant.policy.limits:
        assert isinstance(limit, Quota)
        terms = limit.terms(tenant.account, tenant.clock())
        scope = tuple(project for _ in limit.scope)
        targets.append(Target(bare_form(limit, scope, limit.values.of("free"), terms), over=False))
    booking = Booking(0, tuple(targets), tuple((entry, (0, 1), UNTIL_MS) for entry in entries))
    answer = await tenant.engine.books.record(tenant.ref, booking, WITHIN_S)
    assert isinstance(answer, Booked)
    return answer.outcomes


async def cycles(tenant: Tenant) -> tuple[CycleUse, CycleUse]:
    """The current cycle of the whole, and of project p."""
    operation = Operation(ref=tenant.ref, action="", scope={**EVERYWHERE, "project": "p"})
    answer = await tenant.engine.cycles(usage_plan(tenant.policy, operation, tenant.account, tenant.clock()), WITHIN_S)
    assert isinstance(answer, Cycles)
    return answer.cycles[0][0], answer.cycles[1][0]


async def test_reports_at_once_across_all_thresholds_note_each_of_them_once(engines: Sequence[RedisEngine]) -> None:
    for run in range(RUNS):
        crowd = crowd_of(engines, METERED, f"t{run}")
        pages = [Page("d1", f"e{number}") for number in range(REPORTS)]

        answers = await asyncio.gather(
            *(report(crowd[n % CONNECTIONS], Entry(page, 1, 1, 7, 1)) for n, page in enumerate(pages))
        )

        assert answers == [[Outcome.APPLIED]] * REPORTS
        whole, project = await cycles(crowd[0])
        assert whole.used == project.used == 7 * REPORTS
        notes = await crowd[0].engine.notes(crowd[0].ref, "", 100, WITHIN_S)
        assert [note.percent for note in notes] == [80, 95, 100]
        for note in notes:
            reached = LIMIT * note.percent // 100
            assert reached <= note.used < reached + 7


async def test_reports_of_one_slot_in_any_order_and_number_come_to_the_latest(engines: Sequence[RedisEngine]) -> None:
    for run in range(RUNS):
        crowd = crowd_of(engines, METERED, f"t{run}")
        page = Page("d1", "e", bound=3600)
        entries = [Entry(page, 1000, minute, 60 * minute, 1000) for minute in range(1, 61)] * 2
        random.Random(run).shuffle(entries)  # noqa: S311  # an order, not a secret

        await asyncio.gather(*(report(crowd[n % CONNECTIONS], entry) for n, entry in enumerate(entries)))

        whole, project = await cycles(crowd[0])
        assert whole.used == project.used == 3600 * 1000


async def test_thousands_of_samples_come_to_the_sum_of_a_plain_computation(engines: Sequence[RedisEngine]) -> None:
    """Slots reported several times, corrected up and down, over all connections."""
    crowd = crowd_of(engines, METERED, "t")
    drawn = random.Random(7)  # noqa: S311  # numbers, not secrets
    entries = [
        Entry(Page(f"d{drawn.randrange(3)}", f"e{drawn.randrange(400)}"), key, sequence, drawn.randrange(1000), key + 1)
        for sequence, key in ((n, drawn.randrange(5)) for n in range(20_000))
    ]
    steps = [entries[start : start + 250] for start in range(0, len(entries), 250)]

    await asyncio.gather(*(report(crowd[n % CONNECTIONS], *step) for n, step in enumerate(steps)))

    latest: dict[tuple[Page, int], Entry] = {}
    for entry in entries:
        latest[entry.page, entry.key] = entry
    whole, _ = await cycles(crowd[0])
    assert whole.used == sum(entry.number * entry.weight for entry in latest.values())


async def test_creations_and_deletions_at_once_leave_the_number_that_stands(engines: Sequence[RedisEngine]) -> None:
    for run in range(RUNS):
        crowd = crowd_of(engines, CAPPED, f"t{run}")
        answers = await asyncio.gather(*(each.reserve(each.plan(f"h{n}")) for n, each in enumerate(crowd * 3)))
        granted = [f"h{n}" for n, answer in enumerate(answers) if type(answer).__name__ == "Granted"]
        assert len(granted) == 3
        await asyncio.gather(*(each.settle(hold_id) for hold_id in granted for each in crowd))

        gone = await asyncio.gather(
            *(each.engine.books.release_allocation(each.ref, granted[0], "", WITHIN_S) for each in crowd)
        )

        assert sum(gone) == 1
        assert (await crowd[0].figures())["projects"].used == 2
