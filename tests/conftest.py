"""The stores, engines and Hypothesis profiles that all tests share."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from grpc import aio
from hypothesis import HealthCheck, settings

from server.domain.policy import Policy
from server.engine.base import Engine
from server.engine.client import StoreConnection
from server.engine.memory_engine import MemoryEngine
from server.engine.redis_engine import RedisEngine
from tests.policies_for_tests import HOUR_MS
from tests.store_state import broken_rules, leaks, snapshot
from tests.stores import REDIS, VALKEY, RunningStore, running_store
from tests.tenants import Clock, Refills, Tenant

MOST_CELLS = 6
"""Few, so that a test reaches the bound."""

PAST_ALL_LEASES_MS = 1000 * 24 * HOUR_MS

Figure = Callable[[str], None]
Connect = Callable[[RunningStore], Awaitable[StoreConnection]]

REAL_STORES = (
    "valkey",
    pytest.param("redis7", marks=pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH")),
    "cluster",
)

# `default` finds new examples on every run; `ci` gives the same result for the same code; `deep` is for a long
# look, e.g. HYPOTHESIS_PROFILE=deep make test ARGS="tests/property".
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.register_profile("deep", settings.get_profile("default"), max_examples=2000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.fixture(scope="session", autouse=True)
async def _grpcio_stays_up() -> None:
    """With its last object gone, grpcio ends its poller, and on a busy machine waits for it for ever."""
    aio.init_grpc_aio()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RunningStore]:
    with running_store() as store:
        yield store


@pytest.fixture(scope="session")
def redis7() -> Iterator[RunningStore]:
    with running_store(binary=str(REDIS)) as store:
        yield store


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningStore]:
    with running_store(binary=VALKEY, cluster=True) as store:
        yield store


@pytest.fixture(params=REAL_STORES)
def store(request: pytest.FixtureRequest) -> RunningStore:
    """A real store, empty."""
    store: RunningStore = request.getfixturevalue(request.param)
    store.command("FLUSHALL")
    return store


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections to stores, which are closed when the test is over."""
    opened: list[StoreConnection] = []

    async def connect_to(store: RunningStore) -> StoreConnection:
        opened.append(StoreConnection(store.url))
        await opened[-1].connect()
        return opened[-1]

    yield connect_to
    for connection in opened:
        await connection.close()


@pytest.fixture
async def connection(store: RunningStore, connect: Connect) -> StoreConnection:
    """A connection to the real store of the test."""
    return await connect(store)


@pytest.fixture
async def connect_valkey(valkey: RunningStore, connect: Connect) -> StoreConnection:
    """A connection to the store that the server embeds, for what need not be seen on others."""
    return await connect(valkey)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Says what a test has measured, for the table of `make faults`."""
    return lambda text: record_property("figure", text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refills() -> Refills:
    return Refills()


@pytest.fixture(params=["memory", *REAL_STORES])
async def engine(
    request: pytest.FixtureRequest, clock: Clock, refills: Refills, connect: Connect
) -> AsyncIterator[Engine]:
    """An empty engine on an injected clock; on a real store, one that must leave nothing behind."""
    if request.param == "memory":
        yield MemoryEngine(clock, refills=refills, queues=refills.queues, looks=refills.looks, most_cells=MOST_CELLS)
        return
    store: RunningStore = request.getfixturevalue(request.param)
    store.command("FLUSHALL")
    connection = await connect(store)
    engine = RedisEngine(
        connection, clock=clock, refills=refills, queues=refills.queues, looks=refills.looks, most_cells=MOST_CELLS
    )
    yield engine
    await must_leave_nothing(store, engine, clock)


async def must_leave_nothing(store: RunningStore, engine: Engine, clock: Clock) -> None:
    """Fails when the store breaks a rule now, or keeps anything of a hold once every lease has ended."""
    assert broken_rules(snapshot(store)) == []
    clock.advance(PAST_ALL_LEASES_MS)
    await engine.sweep()
    state = snapshot(store)
    assert leaks(state) == []
    assert broken_rules(state) == []


@pytest.fixture
def tenant(engine: Engine, clock: Clock, refills: Refills) -> Callable[[Policy], Tenant]:
    """Makes the tenant of a test, for a policy."""

    def make(policy: Policy) -> Tenant:
        refills.policy = policy
        return Tenant(engine, clock, policy)

    return make
