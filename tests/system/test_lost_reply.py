"""The store does as it was asked and the reply never comes: what became of it is found by the id, and counts once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, TypeVar

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1.decision_pb2 import OUTCOME_GRANTED
from quota.v1.quota_service_pb2 import HOLD_STATE_SETTLED

from server.engine.scripts import script
from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns
from tests.store_state import broken_rules, snapshot
from tests.stores import CuttingProxy, RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until, until_answered

OPENING: Final = 1_000_000
WORKERS: Final = 8
ROUNDS: Final = 40
ANSWERS_PER_CUT: Final = 100

_Answer = TypeVar("_Answer")


class OnceCuttingProxy(CuttingProxy):
    """`cut_at_reply` holds for one reply."""

    def _hang_up(self, *ends: asyncio.StreamWriter) -> None:
        self.cut_at_reply = False
        super()._hang_up(*ends)


class Line(NamedTuple):
    """A gateway, and a store whose replies may get lost on the way to the server."""

    gateway: Gateway
    channel: aio.Channel
    proxy: CuttingProxy
    store: RunningStore

    def times_sent(self, name: str) -> int:
        """How often the server has sent a script, in full or by its digest."""
        sent = bytes(self.proxy.received)
        return sent.count(script(name).sha) + sent.count(script(name).source)


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    """Everything warmed up: the account is known to the server, the scripts to the store, the first sweep over."""
    with running_store("--appendonly", "yes") as store:
        async with proxy_to(store) as proxy:
            flags = ("--redis-url", proxy.url, "--store-timeout-ms", "1000", "--sweep-interval-ms", "600000")
            async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
                gateway = Gateway(channel)
                await gateway.open_account(OPENING)
                await gateway.take("warm")
                await gateway.settle("warm", 0)
                await health_turns(channel, HealthCheckResponse.SERVING, "holdgate.sweeper")
                yield Line(gateway, channel, proxy, store)
        assert broken_rules(snapshot(store)) == []


@asynccontextmanager
async def proxy_to(store: RunningStore) -> AsyncIterator[CuttingProxy]:
    proxy = OnceCuttingProxy(store)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def test_a_reserve_whose_reply_is_late_is_looked_up_once_and_granted(line: Line) -> None:
    sent, looked_up = line.times_sent("reserve"), line.times_sent("find")
    line.store.freeze()
    asking = asyncio.create_task(line.gateway.reserve("r-1"))
    await until(lambda: line.times_sent("find") > looked_up, what="the server to look the id up")
    line.store.thaw()
    decision = await asking
    assert (decision.outcome, decision.hold_id, decision.replayed) == (OUTCOME_GRANTED, "r-1", True)
    assert (line.times_sent("reserve") - sent, line.times_sent("find") - looked_up) == (1, 1)
    assert (await line.gateway.credits()).held == PRICE


async def test_a_reserve_whose_reply_is_swallowed_is_granted_to_the_next_ask(line: Line) -> None:
    sent, looked_up = line.times_sent("reserve"), line.times_sent("find")
    line.proxy.swallow_replies = True
    fault = await fault_of(line.gateway.reserve("r-1"))
    assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert (line.times_sent("reserve") - sent, line.times_sent("find") - looked_up) == (1, 1)
    line.proxy.swallow_replies = False
    line.proxy.cut()  # after a lost reply the others would be taken for it: no store goes on like that
    decision = await until_answered(lambda: line.gateway.reserve("r-1"))
    assert (decision.outcome, decision.hold_id, decision.replayed) == (OUTCOME_GRANTED, "r-1", True)
    assert (await line.gateway.credits()).held == PRICE


async def test_a_reserve_whose_connection_breaks_at_the_reply_is_found_now_or_by_the_next_ask(line: Line) -> None:
    sent = line.times_sent("reserve")
    asks = 0

    async def ask() -> object:
        nonlocal asks
        asks += 1
        return await line.gateway.reserve("r-1")

    line.proxy.cut_at_reply = True
    await until_answered(ask)
    assert 1 <= line.times_sent("reserve") - sent <= asks
    decision = await line.gateway.reserve("r-1")
    assert (decision.outcome, decision.replayed) == (OUTCOME_GRANTED, True)
    assert (await line.gateway.credits()).held == PRICE


async def test_a_settle_whose_reply_is_lost_charges_once(line: Line) -> None:
    await line.gateway.take("r-1")
    line.proxy.cut_at_reply = True
    fault = await fault_of(line.gateway.settle("r-1", 7))
    assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    again = await until_answered(lambda: line.gateway.settle("r-1", 7))
    assert (again.state, again.applied) == (HOLD_STATE_SETTLED, False)
    balance = await line.gateway.credits()
    assert (balance.held, balance.remaining) == (0, OPENING - 7)


async def test_traffic_over_a_line_that_keeps_breaking_is_charged_to_the_unit(line: Line) -> None:
    """Each call is sent again with the same ids until it is answered."""
    answers = 0

    async def answered(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        nonlocal answers
        answer = await until_answered(call)
        answers += 1
        line.proxy.cut_at_reply |= answers % ANSWERS_PER_CUT == 0
        return answer

    async def work(number: int) -> int:
        random = Random(number)  # noqa: S311  # the same work in every run
        charged = 0
        for index in range(ROUNDS):
            name, used = f"{number}-{index}", random.randint(0, PRICE)
            decision = await answered(partial(line.gateway.reserve, name))
            assert decision.outcome == OUTCOME_GRANTED
            settled = await answered(partial(line.gateway.settle, name, used))
            assert settled.state == HOLD_STATE_SETTLED
            charged += used
        return charged

    before = line.proxy.connections
    charged = await asyncio.gather(*map(work, range(WORKERS)))
    line.proxy.cut_at_reply = False
    assert line.proxy.connections - before >= 5
    balance = await until_answered(line.gateway.credits)
    assert (balance.held, balance.remaining) == (0, OPENING - sum(charged))
