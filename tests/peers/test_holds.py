"""Bugs of peers in holds and pools, that no other test has under its name (`rows.yaml`)."""

from collections.abc import Callable
from pathlib import Path
from time import time

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from server.bootstrap import SWEEPER
from server.domain.errors import HoldNotFoundError
from server.domain.hold import State
from server.domain.policy import Policy
from server.engine.base import Granted
from tests.policies_for_tests import TERMS, balance, policy, slots
from tests.rpc.healths import health_turns
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, embedded_store, kill, serving
from tests.system.test_killed_server import EXPIRED, held_in, stored_hold
from tests.tenants import Tenant
from tests.waiting import until

MakeTenant = Callable[[Policy], Tenant]


async def test_missed_release_heals_under_traffic(tenant: MakeTenant) -> None:
    """One release is lost while others come and go all the time: the place is free when its lease ends, not later."""
    lab = tenant(policy(slots("jobs", 2)))
    await lab.grant("lost")
    lost_at_ms, healed_at_ms = lab.clock(), 0
    number = 0
    while not healed_at_ms:
        number += 1
        first, second = f"a{number}", f"b{number}"
        await lab.grant(first)
        if isinstance(await lab.reserve(lab.plan(second)), Granted):
            healed_at_ms = lab.clock()
            await lab.release(second)
        await lab.release(first)
        lab.clock.advance(1000)
    assert healed_at_ms - lost_at_ms == TERMS.lease_ms
    assert (await lab.hold("lost")).state is State.EXPIRED


async def test_settle_of_refused(tenant: MakeTenant) -> None:
    """What was refused has no hold: a settle of it finds nothing and moves nothing."""
    lab = tenant(policy(balance("credits")))
    await lab.open(credits=5)
    await lab.refusal("h", credits=6)
    before = await lab.figures()

    with pytest.raises(HoldNotFoundError):
        await lab.settle("h", {"credits": 6})
    with pytest.raises(HoldNotFoundError):
        await lab.release("h")

    assert await lab.figures() == before


async def test_reaper_runs_by_default(tmp_path: Path) -> None:
    """A server that is told nothing about sweeping sweeps as soon as it is there, and its health says that it does."""
    async with serving(tmp_path) as server, channels_to(server.address) as (channel,):
        gateway = Gateway(channel)
        await gateway.open_account(100)
        await gateway.take("r-1", "brief")
        lease_end_ms = stored_hold(embedded_store(tmp_path)).lease_end
        kill(server)
    await until(lambda: time() * 1000 > lease_end_ms, what="the lease to end")
    async with serving(tmp_path) as server, channels_to(server.address) as (channel,):
        store = embedded_store(tmp_path)
        await until(lambda: stored_hold(store).state == EXPIRED, what="the sweeper to end the hold")
        assert held_in(store) == 0
        await health_turns(channel, HealthCheckResponse.SERVING, SWEEPER)
