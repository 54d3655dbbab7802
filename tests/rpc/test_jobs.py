"""What the server does by itself goes on whatever happens, and tells when it does not get on."""

import asyncio

from structlog.testing import capture_logs

from server.domain.account import Account
from server.domain.errors import StoreUnavailableError
from server.domain.hold import State
from server.domain.operation import Operation, TenantRef
from server.domain.plan import make_plan
from server.engine.memory_engine import MemoryEngine
from server.jobs.periodic import Periodic
from server.jobs.reaper import Reaper
from tests.policies_for_tests import TERMS, policy, slots
from tests.waiting import until

OFTEN_S = 0.001


async def test_work_goes_on_after_errors_which_are_logged() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise StoreUnavailableError("no answer")
        if len(done) == 2:
            raise ValueError("a defect")

    with capture_logs() as logged:
        async with Periodic("the work", work, OFTEN_S) as periodic:
            before = periodic.succeeded_s_ago
            await until(lambda: len(done) >= 4, what="two rounds after the errors")
            after = periodic.succeeded_s_ago
    assert before is None
    assert after is not None
    assert [(event["log_level"], event["job"]) for event in logged] == [
        ("warning", "the work"),
        ("error", "the work"),
    ]


async def test_work_ends_with_its_block_even_in_the_middle() -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async with Periodic("endless", work, OFTEN_S):
        await begun.wait()
    assert ended == ["work"]


async def test_the_reaper_expires_the_overdue_holds_of_a_tenant_that_nobody_asks_about() -> None:
    now_ms = [1_000_000]
    engine = MemoryEngine(lambda: now_ms[0])
    ref = TenantRef("lab", "acme")
    plan = make_plan(policy(slots("jobs", 1)), Operation(ref=ref, action="work"), Account(plan="free"), now_ms[0])
    await engine.reserve(plan, "r-1", 1.0)
    reaper = Reaper(engine, OFTEN_S)
    assert not reaper.keeps_up
    with capture_logs() as logged:
        async with reaper:
            await until(lambda: reaper.keeps_up, what="a sweep")
            now_ms[0] += TERMS.lease_ms
            await until(lambda: bool(logged), what="a sweep that finds the hold")
    assert [(event["event"], event["expired"]) for event in logged] == [("reaper.swept", 1)]
    hold = (await engine.find(ref, "r-1", 1.0)).hold
    assert hold is not None
    assert hold.state is State.EXPIRED
