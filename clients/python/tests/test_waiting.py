"""Both clients before a pool with a queue: who has no place does not begin, and waits in line only if it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc import aio
from holdgate import Ask, AsyncQuota, Posture, Quota, Refused
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import quota_service_pb2 as quota
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.decision_pb2 import OUTCOME_QUEUED, LimitStatus
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.settings import from_flags
from tests.waiting import PATIENCE_S

POLICY = """
policy: lab
tenant: org
meters: {credits: {}}
plans: [free]
default_plan: free
actions:
  job: {hold: {lease: 60s, longest: 1h}}
limits:
  - {id: jobs, kind: slots, limit: 1, typical: 5s, refuse: busy, queue: {depth: 2, ticket: 30s}}
  - {id: credits, kind: balance, meter: credits, opening: 100, refuse: empty}
refusals:
  busy: {http: 429, retryable: true, message: "Busy."}
  empty: {http: 402, message: "Empty."}
"""


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    (tmp_path / "lab.yaml").write_text(POLICY)
    flags = {"listen": "127.0.0.1:0", "policies": (tmp_path / "lab.yaml",), "store": "memory", "drain_seconds": 0}
    async with running(from_flags(flags)) as app:
        async with aio.insecure_channel(app.address) as channel:
            account = admin.Account(plan="free")
            await AdminServiceStub(channel).PutAccount(admin.PutAccountRequest(tenant="acme", account=account))
        yield app.address


async def limit(address: str, name: str) -> LimitStatus:
    async with aio.insecure_channel(address) as channel:
        usage = await QuotaServiceStub(channel).GetUsage(quota.GetUsageRequest(tenant="acme"))
    return next(found for found in usage.limits if found.id == name)


def ask(wait_s: float = 0) -> Ask:
    return Ask(tenant="acme", action="job", amounts={"credits": 10}, wait_s=wait_s)


async def asynchronous(address: str, asked: Ask) -> None:
    async with AsyncQuota(address, posture=Posture.OPEN) as client, client.hold(asked):
        pass


def threaded(address: str, asked: Ask) -> None:
    with Quota(address, posture=Posture.OPEN) as client, client.hold(asked):
        pass


async def in_a_thread(address: str, asked: Ask) -> None:
    await asyncio.to_thread(threaded, address, asked)


both = pytest.mark.parametrize("work", [asynchronous, in_a_thread])
Work: TypeAlias = Callable[[str, Ask], Coroutine[None, None, None]]


@both
@pytest.mark.parametrize("wait_s", [0, 0.2])
async def test_who_finds_no_place_in_time_does_not_begin_and_leaves_the_line(
    address: str, work: Work, wait_s: float
) -> None:
    async with AsyncQuota(address) as client, client.hold(ask()):
        with pytest.raises(Refused, match="queued") as raised:
            await work(address, ask(wait_s))
        assert raised.value.decision.outcome == OUTCOME_QUEUED
        assert (await limit(address, "jobs")).queued == 0
        assert (await limit(address, "credits")).remaining == 90


@both
async def test_who_waits_begins_when_its_turn_has_come(address: str, work: Work) -> None:
    async with AsyncQuota(address) as client:
        async with client.hold(ask()):
            waiting = asyncio.ensure_future(work(address, ask(30)))
            async with asyncio.timeout(PATIENCE_S):
                while (await limit(address, "jobs")).queued != 1:
                    pass  # each look is a call
            assert not waiting.done()
        await waiting
    assert (await limit(address, "credits")).remaining == 80
