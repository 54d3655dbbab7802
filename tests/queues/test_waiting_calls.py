"""Calls that wait for their turn, over server processes that share a store."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode, aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc
from quota.v1 import decision_pb2 as decisions
from quota.v1 import quota_service_pb2 as quota

from tests.rpc.processes import ServerProcess
from tests.store_state import broken_rules, leaks, snapshot
from tests.stores import VALKEY, RunningStore, running_store
from tests.system.servers import channels_to, kill, serving
from tests.waiting import until

PAUSE_S: Final = 0.01

POLICY: Final = Path(__file__).with_name("policy.yaml")
PLACES: Final = 5
PATIENCE_S: Final = 120.0
LAPSE_S: Final = 20.0
"""In which the place of a call is free whose process is gone; 5 s by promise, on a quiet machine."""


class Caller:
    """A client of one server."""

    def __init__(self, channel: aio.Channel) -> None:
        self.stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)

    async def open_account(self, credits_: int = 1000) -> None:
        """The tenant, with credits."""
        account = admin.Account(plan="only")
        await self.admin.PutAccount(
            admin.PutAccountRequest(tenant="acme", account=account, opening={"credits": credits_})
        )

    def ask(
        self, request_id: str, *, wait: bool = False, timeout_s: float = PATIENCE_S, action: str = "job"
    ) -> "aio.UnaryUnaryCall[quota.CheckAndReserveRequest, quota.CheckAndReserveResponse]":
        """A request for a place and a credit."""
        request = quota.CheckAndReserveRequest(
            tenant="acme", request_id=request_id, action=action, amounts={"credits": 1}, wait=wait
        )
        return self.stub.CheckAndReserve(request, timeout=timeout_s)

    async def decide(self, request_id: str) -> decisions.Decision:
        """What a request is answered that does not wait."""
        return (await self.ask(request_id)).decision

    async def release(self, hold_id: str) -> quota.ReleaseResponse:
        """Ends a job, or gives a place up."""
        return await self.stub.Release(quota.ReleaseRequest(tenant="acme", hold_id=hold_id), timeout=PATIENCE_S)

    async def figures(self) -> tuple[int, int]:
        """How many run, and how many wait."""
        answer = await self.stub.GetUsage(quota.GetUsageRequest(tenant="acme"), timeout=PATIENCE_S)
        (pool,) = (limit for limit in answer.limits if limit.id == "jobs")
        return pool.used, pool.queued

    async def held(self) -> int:
        """Credits that are put aside."""
        answer = await self.stub.GetUsage(quota.GetUsageRequest(tenant="acme"), timeout=PATIENCE_S)
        return next(limit.held for limit in answer.limits if limit.id == "credits")

    async def fill(self) -> list[str]:
        """Takes every place; the jobs' ids."""
        jobs = [f"job-{number}" for number in range(PLACES)]
        for job in jobs:
            assert (await self.decide(job)).outcome == decisions.OUTCOME_GRANTED
        return jobs


@pytest.fixture
def shared() -> Iterator[RunningStore]:
    """A store for several servers."""
    with running_store("--appendonly", "yes", binary=VALKEY, tcp=True) as store:
        yield store


class Site:
    """Two servers on one store, with a caller of each."""

    def __init__(self, store: RunningStore, servers: list[ServerProcess], callers: list[Caller]) -> None:
        self.store = store
        self.servers = servers
        self.callers = callers

    def queue(self) -> list[str]:
        """Who waits, first come first."""
        keys = self.store.command("KEYS", "hg:{lab/acme}:q:*")
        return [member.decode() for key in keys for member in self.store.command("ZRANGE", key, 0, -1)]

    async def queue_is(self, length: int) -> None:
        """Returns once so many wait."""
        await until(lambda: len(self.queue()) == length, what=f"{length} to wait", within_s=PATIENCE_S)


@pytest.fixture(params=["asgi", "grpcio"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, shared: RunningStore) -> AsyncIterator[Site]:
    """Two servers on one store."""
    async with AsyncExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            flags = (
                *("--policies", str(POLICY), "--redis-url", f"redis://127.0.0.1:{shared.port}/0"),
                *("--transport", request.param, "--drain-seconds", "0"),
            )
            servers.append(await stack.enter_async_context(serving(tmp_path / name, *flags)))
        channels = await stack.enter_async_context(channels_to(*(server.address for server in servers)))
        callers = [Caller(channel) for channel in channels]
        await callers[0].open_account()
        yield Site(shared, servers, callers)


async def test_five_hundred_that_wait_at_two_servers_run_in_the_order_in_which_they_came(site: Site) -> None:
    """Never above capacity, no place idle while somebody waits, and nothing but tombstones is left."""
    waiting, ran = 500, []
    one, two = site.callers
    jobs = await one.fill()
    calls = {}
    for number in range(waiting):
        caller = site.callers[number % 2]
        calls[f"w-{number:03}"] = asyncio.ensure_future(_granted(caller, f"w-{number:03}"))
        if number % 50 == 49:
            await site.queue_is(number + 1)
    arrivals = site.queue()
    assert sorted(arrivals) == sorted(calls)

    for turn in range(waiting):
        await two.release(jobs.pop(0)) if turn % 2 else await one.release(jobs.pop(0))
        done, _ = await asyncio.wait({calls[arrivals[turn]]}, timeout=PATIENCE_S)
        assert done, f"{arrivals[turn]} is next and was not woken"
        ran.append(done.pop().result())
        jobs.append(ran[-1])
        used, queued = await one.figures()
        assert (used, queued) == (PLACES, waiting - turn - 1)
        assert sum(call.done() for call in calls.values()) == turn + 1

    assert ran == arrivals
    for job in jobs:
        await one.release(job)
    assert await one.figures() == (0, 0)
    assert await one.held() == 0
    state = snapshot(site.store)
    assert broken_rules(state) == []
    # When the last lease would have ended is noted until then.
    assert [left for left in leaks(state) if "due" not in left and "hg:epoch" not in left] == []
    assert site.store.command("ZCARD", "hg:{lab/acme}:due") == 0


async def _granted(caller: Caller, request_id: str) -> str:
    decision = (await caller.ask(request_id, wait=True)).decision
    assert decision.outcome == decisions.OUTCOME_GRANTED
    assert not decision.replayed
    return decision.hold_id


async def test_a_cancelled_call_leaves_the_queue_and_those_behind_move_up(site: Site) -> None:
    one, two = site.callers
    jobs = await one.fill()
    first = one.ask("first", wait=True)
    await site.queue_is(1)
    second = two.ask("second", wait=True)
    await site.queue_is(2)

    first.cancel()

    await site.queue_is(1)
    assert (await one.decide("third")).position == 2
    await one.release(jobs[0])
    assert (await second).decision.outcome == decisions.OUTCOME_GRANTED
    assert await one.held() == PLACES + 1  # four jobs, the second, and the third's ticket


async def test_a_call_whose_deadline_ends_leaves_the_queue(site: Site) -> None:
    one, _ = site.callers
    await one.fill()

    with pytest.raises(aio.AioRpcError) as ended:
        await one.ask("late", wait=True, timeout_s=0.5)

    assert ended.value.code() is StatusCode.DEADLINE_EXCEEDED
    await site.queue_is(0)
    assert await one.held() == PLACES


async def test_the_places_of_a_killed_server_are_free_soon_and_a_repeat_elsewhere_keeps_its_place(site: Site) -> None:
    one, two = site.callers
    jobs = await one.fill()
    lost, kept = two.ask("lost", wait=True), two.ask("kept", wait=True)
    await site.queue_is(2)
    for call in (lost, kept):
        call.add_done_callback(lambda _call: None)

    kill(site.servers[1])
    again = one.ask("kept", wait=True)

    await site.queue_is(1)
    await one.release(jobs[0])
    assert (await again).decision.hold_id == "kept"
    assert await one.held() == PLACES
    for call in (lost, kept):
        with pytest.raises(aio.AioRpcError):
            await call


async def test_a_cancelled_call_does_not_take_the_place_from_the_one_that_repeats_it(site: Site) -> None:
    one, two = site.callers
    jobs = await one.fill()
    first = one.ask("same", wait=True)
    await site.queue_is(1)
    before = record_of(site, "same")
    second = two.ask("same", wait=True)
    await until(lambda: record_of(site, "same") != before, what="the second call to take the place over")

    first.cancel()
    await one.release(jobs[0])

    assert (await second).decision.outcome == decisions.OUTCOME_GRANTED


def record_of(site: Site, hold_id: str) -> bytes:
    """A hold as stored."""
    return bytes(site.store.command("GET", f"hg:{{lab/acme}}:h:{hold_id}"))


async def test_a_lease_that_ends_frees_its_place_for_who_waits_without_anybody_asking(site: Site) -> None:
    one, two = site.callers
    await one.fill()
    for job in range(PLACES):
        await one.release(f"job-{job}")
    for job in range(PLACES):
        assert (await one.ask(f"brief-{job}", action="brief")).decision.outcome == decisions.OUTCOME_GRANTED

    waited = await two.ask("waits", wait=True, timeout_s=LAPSE_S)

    assert waited.decision.outcome == decisions.OUTCOME_GRANTED


async def test_a_server_that_stops_sends_its_waiting_calls_elsewhere(site: Site) -> None:
    one, two = site.callers
    jobs = await one.fill()
    waits = two.ask("moves", wait=True)
    await site.queue_is(1)

    site.servers[1].process.terminate()
    with pytest.raises(aio.AioRpcError) as stopped:
        await waits
    again = one.ask("moves", wait=True)
    await one.release(jobs[0])

    assert stopped.value.code() is StatusCode.UNAVAILABLE
    assert (await again).decision.hold_id == "moves"


async def test_waiting_is_for_a_call_of_its_own(site: Site) -> None:
    one, _ = site.callers
    ask = quota.CheckAndReserveRequest(tenant="acme", request_id="b", action="job", wait=True)

    answer = await one.stub.Batch(quota.BatchRequest(operations=[quota.Operation(check_and_reserve=ask)]))

    assert answer.results[0].error.code == StatusCode.INVALID_ARGUMENT.value[0]
