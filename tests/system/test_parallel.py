"""Many asks at once, over many connections to one server and to two: a balance is sold once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
from quota.v1.decision_pb2 import OUTCOME_GRANTED, OUTCOME_REFUSED, Decision

from tests.store_state import broken_rules, snapshot
from tests.stores import REDIS, RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, embedded_store, owner_of, serving

RUNS: Final = 100
CONNECTIONS: Final = 8
ASKS: Final = 50
COPIES: Final = 20
OPENING: Final = 45
FITTING: Final = OPENING // PRICE

needs_redis = pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH")


class Deployment:
    """Servers on one store."""

    def __init__(self, addresses: tuple[str, ...], store: RunningStore) -> None:
        self.addresses = addresses
        self.store = store


@pytest.fixture(
    scope="module",
    params=[
        "one server",
        "one server of two workers",
        "two on an embedded store",
        pytest.param("two on redis7", marks=needs_redis),
    ],
)
async def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    folder, beside = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    async with AsyncExitStack() as stack:
        if request.param == "two on redis7":
            store = stack.enter_context(running_store("--appendonly", "yes", binary=str(REDIS)))
            flags: tuple[str, ...] = ("--redis-url", store.url)
            first = await stack.enter_async_context(serving(folder, *flags))
        else:
            more = ("--workers", "2") if request.param == "one server of two workers" else ()
            first = await stack.enter_async_context(serving(folder, *more))
            store = embedded_store(folder)
            flags = ("--redis-url", owner_of(folder).url)
        addresses = [first.address]
        if request.param.startswith("two"):
            second = await stack.enter_async_context(serving(beside, *flags))
            addresses.append(second.address)
        yield Deployment(tuple(addresses), store)
        assert broken_rules(snapshot(store)) == []


async def test_of_fifty_asks_at_once_exactly_those_that_fit_are_granted(deployment: Deployment) -> None:
    each = CONNECTIONS // len(deployment.addresses)
    async with channels_to(*deployment.addresses, each=each) as channels:
        for run in range(RUNS):
            gateways = [Gateway(channel, f"sold-{run}") for channel in channels]
            await gateways[0].open_account(OPENING)
            decisions = await asyncio.gather(*(gateways[ask % CONNECTIONS].reserve(f"r-{ask}") for ask in range(ASKS)))
            granted = [decision for decision in decisions if decision.outcome == OUTCOME_GRANTED]
            refused = [decision for decision in decisions if decision.outcome == OUTCOME_REFUSED]
            assert (len(granted), len(refused)) == (FITTING, ASKS - FITTING), f"run {run}"
            assert {decision.refusal.code for decision in refused} == {"insufficient_credits"}
            balance = await gateways[-1].credits()
            assert (balance.held, balance.remaining) == (FITTING * PRICE, OPENING % PRICE), f"run {run}"


@pytest.mark.parametrize("opening", [PRICE, COPIES * PRICE], ids=["money for one", "money for all"])
async def test_a_storm_of_retries_makes_one_hold_and_gets_equal_answers(deployment: Deployment, opening: int) -> None:
    """Whether the limits would have room for a second hold or not: a repeat is known before they are looked at."""
    async with channels_to(*deployment.addresses, each=COPIES // len(deployment.addresses)) as channels:
        for run in range(RUNS // 5):
            gateways = [Gateway(channel, f"storm-{opening}-{run}") for channel in channels]
            await gateways[0].open_account(opening)
            decisions = await asyncio.gather(*(gateway.reserve("r-1") for gateway in gateways))
            assert [decision.replayed for decision in decisions].count(False) == 1, f"run {run}"
            assert len({without_times(decision) for decision in decisions}) == 1, f"run {run}"
            assert (decisions[0].outcome, decisions[0].hold_id) == (OUTCOME_GRANTED, "r-1")
            balance = await gateways[-1].credits()
            assert (balance.held, balance.remaining) == (PRICE, opening - PRICE), f"run {run}"
            await gateways[0].settle("r-1", 3)
            decisions = await asyncio.gather(*(gateway.reserve("r-1") for gateway in gateways))
            assert all(decision.replayed for decision in decisions), f"run {run}"
            balance = await gateways[-1].credits()
            assert (balance.held, balance.remaining) == (0, opening - 3), f"run {run}"


def without_times(decision: Decision) -> bytes:
    """The answer, but for what differs between a grant and its replay a moment later."""
    answer = Decision()
    answer.CopyFrom(decision)
    for name in ("replayed", "expires_in_ms", "renew_after_ms"):
        answer.ClearField(name)
    return answer.SerializeToString(deterministic=True)
