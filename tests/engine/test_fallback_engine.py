"""Without the store: what is granted, what is not, and that the store is told of every grant once."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest

from server.domain.errors import HoldExpiredError, HoldStateError, StoreUnavailableError
from server.domain.hold import State
from server.domain.limits.base import Limit, Look, Posture
from server.domain.operation import TenantRef
from server.domain.policy import Policy
from server.engine import fallback_engine
from server.engine.base import Extended, Granted, Replayed
from server.engine.client import StoreConnection
from server.engine.fallback_engine import FallbackEngine
from server.engine.guarded_store import GuardedStore
from server.jobs.periodic import Periodic
from tests.policies_for_tests import TERMS, balance, policy, quota, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import CuttingProxy, RunningStore, cutting_proxy, running_store
from tests.tenants import WITHIN_S, Clock, Tenant
from tests.waiting import until

SHARE: Final = 0.1
OTHER: Final = TenantRef("lab", "another")
JOBS: Final = policy(window("rpm", 100), window("tpm", 1000, "tokens"), slots("jobs", 30))


class Lab:
    """Servers on one store, as processes of their own would be."""

    def __init__(self, store: RunningStore, rules: Policy) -> None:
        self.store = store
        self.rules = rules
        self.clock = Clock()
        self.engines: list[FallbackEngine] = []
        self.guards: list[GuardedStore] = []

    async def server(self, *, url: str = "", share: float = SHARE) -> Tenant:
        """One more."""
        connection = StoreConnection(url or self.store.url)
        await connection.connect()
        self.guards.append(GuardedStore(connection))
        self.engines.append(FallbackEngine(self.guards[-1], share=share, clock=self.clock, local_clock=self.clock))
        return Tenant(self.engines[-1], self.clock, self.rules)

    async def lose_store(self) -> None:
        self.store.kill()
        await self.notice()

    async def notice(self) -> None:
        """Asks in vain until every server has found that the store is gone."""
        for engine, guard in zip(self.engines, self.guards, strict=True):
            while not guard.is_open:
                with pytest.raises(StoreUnavailableError):
                    await engine.find(TenantRef("lab", "somebody"), "", 0.2)

    async def restore_store(self) -> None:
        self.store.start()
        await until(lambda: not any(guard.is_open for guard in self.guards), what="the probes")

    async def close(self) -> None:
        for engine in self.engines:
            await engine.close()


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        yield store


@asynccontextmanager
async def lab_of(store: RunningStore, rules: Policy = JOBS) -> AsyncIterator[Lab]:
    lab = Lab(store, rules)
    try:
        yield lab
        assert broken_rules(snapshot(store)) == []
    finally:
        await lab.close()


async def figures(tenant: Tenant) -> Mapping[str, tuple[int, int]]:
    """Used and held of every limit."""
    return {name: (look.used, look.held) for name, look in (await tenant.figures({})).items()}


async def grants(tenant: Tenant, count: int, tokens: int = 0) -> list[bool]:
    """Which of so many requests are granted."""
    granted = []
    for number in range(count):
        name = f"h{number}"
        plan = tenant.plan(name, scope={}, tokens=tokens) if tokens else tenant.plan(name, scope={})
        try:
            answer = await tenant.engine.reserve(plan, plan.operation.request_id, WITHIN_S)
        except StoreUnavailableError:
            granted.append(False)
        else:
            assert isinstance(answer, Granted)
            assert answer.degraded
            assert answer.looks == ()
            granted.append(True)
    return granted


async def test_the_local_allowance_runs_out(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await lab.lose_store()
        assert await grants(server, 5) == [True, True, True, False, False]
        assert lab.engines[0].counts.granted == 3
        assert lab.engines[0].counts.denied == 2
        await lab.restore_store()


POSTURES: Final[Mapping[str, tuple[Limit, bool]]] = {
    "a window": (window("l", 100), True),
    "a pool": (slots("l", 100), True),
    "a quota": (quota("l", 100, "tokens"), False),
    "a balance": (balance("l", "tokens"), False),
    "a closed window": (replace(window("l", 100), posture=Posture.CLOSED), False),
    "a closed pool": (replace(slots("l", 100), posture=Posture.CLOSED), False),
    "an open window": (replace(window("l", 100), posture=Posture.OPEN), True),
    "an open quota": (replace(quota("l", 100, "tokens"), posture=Posture.OPEN), True),
}


@pytest.mark.parametrize("case", POSTURES)
async def test_each_limit_answers_by_its_posture(case: str, store: RunningStore) -> None:
    limit, opens = POSTURES[case]
    async with lab_of(store, policy(limit)) as lab:
        server = await lab.server()
        await lab.lose_store()
        assert await grants(server, 1, tokens=1) == [opens]
        with_money = replace(server, policy=policy(limit, balance("credits")), ref=OTHER)
        assert await grants(with_money, 1, tokens=1) == [False]
        await lab.restore_store()


async def test_a_server_told_to_grant_nothing_by_itself_grants_nothing(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server(share=0)
        await lab.lose_store()
        assert await grants(server, 1) == [False]
        await lab.restore_store()


async def test_what_was_granted_settled_and_given_back_is_booked_once(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await server.grant("before", scope={}, tokens=100)
        await lab.lose_store()
        assert await grants(server, 3, tokens=30) == [True] * 3
        assert (await server.settle("h0", {"tokens": 12})).applied
        assert not (await server.settle("h0", {"tokens": 12})).applied
        with pytest.raises(HoldStateError):
            await server.settle("h0", {"tokens": 13})
        assert (await server.release("h1")).state is State.RELEASED
        await server.report("h2", {"tokens": 40})
        await lab.restore_store()

        assert await lab.engines[0].book() == 3
        assert await lab.engines[0].book() == 0
        assert await figures(server) == {"rpm": (4, 0), "tpm": (100 + 12 + 0 + 40, 0), "jobs": (2, 2)}
        assert not (await server.settle("h0", {"tokens": 12})).applied
        assert (await server.hold("h1")).state is State.RELEASED
        assert (await server.settle("h2", {"tokens": 41})).applied
        assert (await figures(server))["tpm"] == (100 + 12 + 41, 0)


async def test_a_booking_takes_what_was_granted_also_from_a_limit_that_is_full(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await server.grant("before", scope={}, tokens=1000)
        await lab.lose_store()
        assert await grants(server, 1, tokens=100) == [True]
        await lab.restore_store()
        await lab.engines[0].book()
        assert (await figures(server))["tpm"] == (1100, 0)


async def test_a_booking_whose_reply_is_lost_is_made_again_and_counts_once(store: RunningStore) -> None:
    async with lab_of(store) as lab, proxy_to(store) as proxy:
        server = await lab.server(url=proxy.url)
        store.freeze()
        await lab.notice()
        assert await grants(server, 3, tokens=30) == [True] * 3
        await server.settle("h1", {"tokens": 7})
        store.thaw()
        await until(lambda: not lab.guards[0].is_open, what="the probe")
        proxy.cut_at_reply = True
        await lab.engines[0].book()
        assert lab.engines[0].unbooked
        proxy.cut_at_reply = False
        async with Periodic("booking", lab.engines[0].book, 0.01):
            await until(lambda: not lab.engines[0].unbooked, what="the booking")
        assert await figures(server) == {"rpm": (3, 0), "tpm": (30 + 7 + 30, 0), "jobs": (2, 2)}
        assert lab.engines[0].counts.booked == 3


@asynccontextmanager
async def proxy_to(store: RunningStore) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(store) as proxy:
        yield proxy


async def test_a_request_that_two_servers_granted_is_booked_by_one(store: RunningStore) -> None:
    """The caller asked again elsewhere when the first answer was lost."""
    async with lab_of(store) as lab:
        first, second = await lab.server(), await lab.server()
        await lab.lose_store()
        assert await grants(first, 1, tokens=30) == await grants(second, 1, tokens=30) == [True]
        await second.settle("h0", {"tokens": 5})
        await lab.restore_store()
        for engine in lab.engines:
            await engine.book()
        assert await figures(first) == {"rpm": (1, 0), "tpm": (5, 0), "jobs": (0, 0)}


async def test_a_repeat_gets_its_grant_and_other_content_is_told_apart(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await lab.lose_store()
        await grants(server, 1, tokens=30)
        again = await server.reserve(server.plan("h0", scope={}, tokens=30))
        assert isinstance(again, Replayed)
        assert again.degraded
        assert again.hold.fingerprint == server.plan("h0", scope={}, tokens=30).fingerprint
        assert again.hold.fingerprint != server.plan("h0", scope={}, tokens=31).fingerprint
        await lab.restore_store()


async def test_an_id_that_means_something_else_to_the_store_is_not_booked(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await server.grant("h0", scope={}, tokens=1)
        await lab.lose_store()
        await grants(server, 1, tokens=30)
        await lab.restore_store()
        await lab.engines[0].book()
        assert lab.engines[0].counts.unbooked == 1
        assert (await figures(server))["tpm"] == (1, 0)


async def test_a_lease_is_renewed_and_ends_without_the_store(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await lab.lose_store()
        await grants(server, 3, tokens=1)
        lab.clock.advance(TERMS.lease_ms - 1)
        extended = await server.engine.extend(server.ref, "h0", {"tokens": 1}, None, WITHIN_S)
        assert isinstance(extended, Extended)
        assert extended.hold.lease_ends_at_ms == lab.clock() + TERMS.lease_ms
        lab.clock.advance(1)
        with pytest.raises(HoldExpiredError):
            await server.engine.extend(server.ref, "h1", {}, None, WITHIN_S)
        assert (await server.settle("h1", {"tokens": 1})).state is State.SETTLED_LATE
        with pytest.raises(StoreUnavailableError, match="cannot be raised"):
            await server.extend("h0", server.plan("", scope={}, tokens=2))
        await lab.restore_store()
        await lab.engines[0].book()
        assert (await figures(server))["jobs"] == (2, 2)


async def test_an_operation_waits_for_the_booking_of_its_hold_and_then_asks_the_store(store: RunningStore) -> None:
    async with lab_of(store) as lab:
        server = await lab.server()
        await lab.lose_store()
        await grants(server, 1, tokens=30)
        await lab.restore_store()
        booking = asyncio.create_task(lab.engines[0].book())
        await asyncio.sleep(0)
        settled, _ = await asyncio.gather(server.settle("h0", {"tokens": 12}), booking)
        assert settled.applied
        assert await figures(server) == {"rpm": (1, 0), "tpm": (12, 0), "jobs": (0, 0)}


async def test_grants_that_no_booking_has_room_for_are_counted(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves a hold needs a place, what leaves none is granted all the same."""
    monkeypatch.setattr(fallback_engine, "MOST_HOLDS", 2)
    async with lab_of(store, policy(window("rpm", 1000))) as lab:
        server = await lab.server()
        await lab.lose_store()
        assert await grants(server, 5) == [True] * 5
        assert lab.engines[0].counts.unbooked == 3
        assert await grants(replace(server, policy=JOBS, ref=OTHER), 1) == [False]
        await lab.restore_store()
        await lab.engines[0].book()
        assert (await server.figures({}))["rpm"] == Look(1000, 2, 0, 60_000, 0)
