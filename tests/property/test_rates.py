"""Layered rates: no rolling window ever holds more than its limit in any scope, and who waits as told is admitted.

The rates of the Kynasmith policy, behind several gates at once; each is a server process of its own, as the store sees
it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain.account import Account
from server.domain.decision import Decision
from server.domain.operation import Operation, TenantRef
from server.engine.base import AccountWrite, Engine
from server.engine.client import StoreConnection
from server.engine.memory_engine import MemoryEngine
from server.engine.redis_engine import RedisEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.conftest import REAL_STORES
from tests.stores import ROOT, RunningStore
from tests.tenants import WITHIN_S, Clock

POLICIES: Final = PolicyStore.load((ROOT / "policies" / "kynasmith.yaml",), KnobSource({}, None))
REF: Final = TenantRef("kynasmith", "o1")
ACCOUNT: Final = Account(plan="std", created_at_ms=1, flags={"billing_configured": True}, version=1)
WINDOW_MS: Final = 60_000
GATES: Final = 4
LIMITS: Final = {"org": 500, "project": 100, "session.create": 10, "movespec.update": 60}

bursts = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 59, 60, 61, 999, 1000, 29_999, 30_000, 58_999, 59_999, 60_000, 60_001]),
        st.sampled_from(["api.call", "api.call", "session.create", "movespec.update"]),
        st.integers(1, 6),
        st.integers(1, 130),
    ),
    min_size=1,
    max_size=14,
)
"""Steps of the clock, each with so many calls of an action at once over so many projects."""


class Admitted:
    """The instants of what was admitted in one scope."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[tuple[int, int]] = deque()

    def add(self, now_ms: int, count: int) -> None:
        """Fails when the window that ends now holds too many; any other window held fewer when it ended."""
        self._entries.append((now_ms, count))
        while self._entries[0][0] <= now_ms - WINDOW_MS:
            self._entries.popleft()
        assert sum(count for _, count in self._entries) <= self._limit


class Lab:
    """One tenant behind several gates, on one clock."""

    def __init__(self, engines: Sequence[Engine], clock: Clock) -> None:
        self.clock = clock
        self._engine = engines[0]
        self._gates = [QuotaGate(POLICIES, engine) for engine in engines]

    async def start(self) -> None:
        await self._engine.write_account(REF, AccountWrite(account=ACCOUNT), WITHIN_S)

    async def burst(self, action: str, projects: int, calls: int) -> list[tuple[str, Decision]]:
        """Calls at once: the project and the answer of each."""
        names = [f"p{call % projects}" for call in range(calls)]
        answers = await asyncio.gather(*(self.ask(action, name, call) for call, name in enumerate(names)))
        return list(zip(names, answers, strict=True))

    async def ask(self, action: str, project: str, caller: int = 0) -> Decision:
        operation = Operation(ref=REF, action=action, scope={"project": project})
        return await self._gates[caller % len(self._gates)].check_and_reserve(operation, within_s=WITHIN_S)


@pytest.fixture(params=["memory", *REAL_STORES])
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, asyncio.AbstractEventLoop, RunningStore | None]]:
    """On a loop of its own, since Hypothesis calls the test many times from outside of one."""
    loop = asyncio.new_event_loop()
    clock = Clock()
    if request.param == "memory":
        yield Lab([MemoryEngine(clock)] * GATES, clock), loop, None
        loop.close()
        return
    store: RunningStore = request.getfixturevalue(request.param)
    connections = [StoreConnection(store.url) for _ in range(GATES)]
    for connection in connections:
        loop.run_until_complete(connection.connect())
    yield Lab([RedisEngine(connection, clock=clock) for connection in connections], clock), loop, store
    for connection in connections:
        loop.run_until_complete(connection.close())
    loop.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(plan=bursts)
def test_no_rolling_minute_holds_more_than_its_limit_and_exact_waits_are_admitted(
    plan: list[tuple[int, str, int, int]],
    lab: tuple[Lab, asyncio.AbstractEventLoop, RunningStore | None],
) -> None:
    """In any scope, under concurrency, at every edge; and refused calls count nowhere, so that hints stay true."""
    used, loop, store = lab
    if store is not None:
        store.command("FLUSHALL")
    else:
        used = Lab([MemoryEngine(used.clock)] * GATES, used.clock)
    loop.run_until_complete(_play(used, plan))


async def _play(lab: Lab, plan: list[tuple[int, str, int, int]]) -> None:
    await lab.start()
    admitted: dict[tuple[str, str], Admitted] = {}

    def note(action: str, counts: Counter[str]) -> None:
        scopes = [("org", "", counts.total())]
        scopes += [(scope, project, count) for project, count in counts.items() for scope in ("project", action)]
        for scope, project, count in scopes:
            if scope in LIMITS:
                known = admitted.setdefault((scope, project), Admitted(LIMITS[scope]))
                known.add(lab.clock(), count)

    refused: tuple[str, str, Decision] | None = None
    for step_ms, action, projects, calls in plan:
        lab.clock.advance(step_ms)
        answers = await lab.burst(action, projects, calls)
        note(action, Counter(project for project, answer in answers if answer.granted))
        refused = next(((action, project, answer) for project, answer in answers if not answer.granted), None)
    if refused is None:
        return
    action, project, answer = refused
    answer = await lab.ask(action, project)
    assert answer.refusal is not None
    assert answer.refusal.retry_after_ms is not None
    assert answer.http is not None
    header_ms = int(answer.http.headers["Retry-After"]) * 1000
    assert answer.refusal.retry_after_ms <= header_ms < answer.refusal.retry_after_ms + 1000
    lab.clock.advance(answer.refusal.retry_after_ms - 1)
    assert not (await lab.ask(action, project)).granted
    lab.clock.advance(1)
    assert (await lab.ask(action, project)).granted
    note(action, Counter([project]))


def test_the_account_of_these_tests_passes_every_gate() -> None:
    """Or nothing would be admitted, and nothing shown."""
    clock = Clock()
    lab = Lab([MemoryEngine(clock)], clock)

    async def first() -> Decision:
        await lab.start()
        return await lab.ask("session.create", "p1")

    assert asyncio.run(first()).granted
