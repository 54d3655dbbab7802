"""Holds whose time is paid, on every engine: the first Extend starts it."""

from collections.abc import Callable
from dataclasses import replace

from server.domain.policy import HoldTerms, Policy, Timed
from server.domain.timed import Start
from server.engine.base import Extended, Overtaken
from tests.policies_for_tests import MINUTE_MS, TERMS, balance, policy, slots
from tests.tenants import START_MS, WITHIN_S, Tenant

Tenants = Callable[[Policy], Tenant]

SESSION = HoldTerms(
    lease_ms=90_000,
    longest_ms=30 * MINUTE_MS,
    tombstone_ms=TERMS.tombstone_ms,
    replay_ms=TERMS.replay_ms,
    first_ms=300_000,
    timed=Timed(by="tokens", charge="credits", per_ms=MINUTE_MS),
)


async def session(tenant: Tenants) -> Tenant:
    """A tenant with the session `s`, which may last for ten minutes."""
    lab = tenant(policy(slots("jobs", 1), balance("credits"), terms=SESSION))
    await lab.open(credits=100)
    granted = await lab.grant("s", tokens=10 * MINUTE_MS, credits=10)
    assert granted.lease_ends_at_ms == START_MS + SESSION.first_ms
    return lab


async def start(lab: Tenant, connection: str) -> Extended | Overtaken:
    """Starts the session as somebody would who has just seen that nobody did."""
    hold = await lab.hold("s")
    note = replace(hold.note, started_at_ms=lab.clock(), connection=connection)
    answer = await lab.engine.extend(lab.ref, "s", {}, None, WITHIN_S, start=Start(note, lab.clock() + note.timed_ms))
    assert isinstance(answer, Extended | Overtaken)
    return answer


async def test_the_start_sets_the_lease_and_the_end_and_the_hold_remembers_it(tenant: Tenants) -> None:
    lab = await session(tenant)
    lab.clock.advance(10_000)

    await start(lab, "ws-1")

    hold = await lab.hold("s")
    assert (hold.note.timed_ms, hold.note.started_at_ms) == (10 * MINUTE_MS, START_MS + 10_000)
    assert hold.note.connection == "ws-1"
    assert hold.lease_ends_at_ms == START_MS + 10_000 + SESSION.lease_ms
    assert hold.longest_ends_at_ms == START_MS + 10_000 + 10 * MINUTE_MS


async def test_of_two_that_start_at_once_the_second_is_told_to_look_again(tenant: Tenants) -> None:
    lab = await session(tenant)
    hold = await lab.hold("s")
    starts = [replace(hold.note, started_at_ms=lab.clock(), connection=name) for name in ("ws-1", "ws-2")]
    ends_ms = lab.clock() + hold.note.timed_ms

    first, second = [
        await lab.engine.extend(lab.ref, "s", {}, None, WITHIN_S, start=Start(note, ends_ms)) for note in starts
    ]

    assert isinstance(first, Extended)
    assert isinstance(second, Overtaken)
    assert (await lab.hold("s")).note.connection == "ws-1"


async def test_a_started_session_that_falls_silent_ends_with_the_shorter_lease(tenant: Tenants) -> None:
    """The token's longer lease was noted as due; the earlier end must not go unseen."""
    lab = await session(tenant)
    await start(lab, "ws-1")

    lab.clock.advance(SESSION.lease_ms)

    assert (await lab.figures())["jobs"].used == 0
