"""A store whose clock is set back or forward by five minutes while it runs (libfaketime).

Each real window admits no more than its limit after a step back, and nobody is locked out for longer than a window.
A step forward looks like time that passed: one window may be admitted twice, and no more.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from structlog.testing import capture_logs

from server.domain.policy import Policy
from server.engine.base import Granted
from server.engine.redis_engine import RedisEngine
from server.jobs.periodic import Periodic
from server.jobs.store_clock import StoreClock
from server.jobs.store_pulse import INTERVAL_S, StorePulse
from server.metrics.metrics import Metrics
from tests.conftest import Connect, Figure
from tests.policies_for_tests import policy, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.tenants import Clock, Tenant
from tests.waiting import until

LIBRARY: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
WINDOW_MS: Final = 1500
LIMIT: Final = 5
STEP_S: Final = 300
RATE: Final = policy(window("rate", LIMIT, window_ms=WINDOW_MS))
JOBS: Final = policy(slots("jobs", 100))

pytestmark = pytest.mark.skipif(
    not LIBRARY.is_file(), reason="libfaketime is not installed (apt-get install libfaketime)"
)


Stepping = tuple[RunningStore, Callable[[int], None]]


@pytest.fixture
def stepping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepping]:
    """A Valkey, and what sets its clock so many seconds off. Debian's Redis hangs at its start with this library."""
    rule = tmp_path / "offset"
    rule.write_text("+0\n")
    monkeypatch.setenv("LD_PRELOAD", str(LIBRARY))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(rule))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    with running_store() as store:
        monkeypatch.undo()
        yield store, lambda offset_s: place(rule, f"{offset_s:+d}\n")


def place(path: Path, text: str) -> None:
    """Writes a file in one step, as it is read at any moment."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


async def admitted_until(tenant: Tenant, until_s: float) -> list[float]:
    """Asks for ever; when each grant was answered."""
    grants = []
    while monotonic() < until_s:
        if isinstance(await tenant.reserve(tenant.plan()), Granted):
            grants.append(monotonic())
    return grants


def most_in_a_window(grants: list[float]) -> int:
    """The most grants in a real window that begins with one of them, a little shorter for the way there and back."""
    span_s = WINDOW_MS / 1000 - 0.05
    return max(sum(start <= at < start + span_s for at in grants) for start in grants)


async def tenant_on(store: RunningStore, connect: Connect, rules: Policy) -> Tenant:
    return Tenant(RedisEngine(await connect(store)), Clock(), rules)


@pytest.mark.parametrize(("step_s", "most"), [(-STEP_S, LIMIT), (STEP_S, 2 * LIMIT)], ids=["back", "forward"])
async def test_a_clock_that_steps_under_traffic(
    step_s: int, most: int, stepping: Stepping, connect: Connect, figure: Figure
) -> None:
    store, set_clock = stepping
    tenant = await tenant_on(store, connect, RATE)
    before_s = store_time_s(store)
    grants = await admitted_until(tenant, monotonic() + WINDOW_MS / 2000)
    stepped_at = monotonic()
    set_clock(step_s)
    grants += await admitted_until(tenant, stepped_at + 2.5 * WINDOW_MS / 1000)

    assert abs(store_time_s(store) - before_s - step_s) < STEP_S / 2, "the store's clock did not step"
    assert most_in_a_window(grants) <= most
    first_after = next(at for at in grants if at > stepped_at)
    assert first_after - stepped_at <= WINDOW_MS / 1000 + 0.2
    assert broken_rules(snapshot(store)) == []
    figure(f"{step_s:+d} s: at most {most_in_a_window(grants)} of {LIMIT} in any real window")


async def test_leases_outlive_a_step_back(stepping: Stepping, connect: Connect) -> None:
    """What was taken stays taken and can be given back; nothing is reclaimed early."""
    store, set_clock = stepping
    tenant = await tenant_on(store, connect, JOBS)
    await tenant.grant("h")
    set_clock(-STEP_S)
    assert (await tenant.figures())["jobs"].used == 1
    assert (await tenant.release("h")).applied
    assert (await tenant.figures())["jobs"].used == 0
    assert broken_rules(snapshot(store)) == []


@pytest.mark.parametrize(("step_s", "direction"), [(-STEP_S, "back"), (STEP_S, "forward")], ids=["back", "forward"])
async def test_a_step_is_noticed_within_a_second_and_once(
    step_s: int, direction: str, stepping: Stepping, connect: Connect, figure: Figure
) -> None:
    store, set_clock = stepping
    connection = await connect(store)
    pulse = StorePulse(lambda within_s: connection.call("TIME", timeout_s=within_s), StoreClock(Metrics()))
    with capture_logs() as told:
        async with Periodic("pulse", pulse.feel, INTERVAL_S) as periodic:
            await until(lambda: periodic.succeeded_s_ago is not None, what="a first look at the clock")
            set_clock(step_s)
            stepped_at = monotonic()
            await until(lambda: bool(told), what="the step to be noticed")
            noticed_s = monotonic() - stepped_at
            looks = store_calls(store)
            await until(lambda: store_calls(store) >= looks + 3, what="further looks")
    assert [(each["event"], each["direction"]) for each in told] == [("store.clock_stepped", direction)]
    assert abs(told[0]["by_ms"] - step_s * 1000) < 1000
    figure(f"{step_s:+d} s noticed within {noticed_s:.1f} s")


def store_calls(store: RunningStore) -> int:
    """How often the store was asked for its time."""
    found = re.search(rb"cmdstat_time:calls=(\d+)", store.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


def store_time_s(store: RunningStore) -> int:
    return int(store.command("TIME")[0])
