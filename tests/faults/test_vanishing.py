"""Callers that break off in the midst of calls, by the connection or by the call, and never come back."""

import asyncio
from pathlib import Path
from random import Random
from typing import Final

from grpc import aio

from server.engine.keys import EPOCH_KEY
from tests.conftest import Figure
from tests.faults.sizes import size
from tests.store_state import broken_rules, leaks, snapshot
from tests.stores import running_store
from tests.system.gateway import Gateway
from tests.system.servers import OWN_CONNECTION, channels_to, serving
from tests.waiting import until

OPENING: Final = 1_000_000
AT_ONCE: Final = 20


async def test_callers_that_vanish_leave_nothing_behind(tmp_path: Path, figure: Figure) -> None:
    """What they had taken comes back when its lease ends, without them; nobody gets another's answer."""
    callers = size(10, 30, 500)
    random, taken = Random(1), 0  # noqa: S311  # the same order in every run
    with running_store("--appendonly", "no") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url, "--sweep-interval-ms", "500") as server,
            channels_to(server.address) as (channel,),
        ):
            stays = Gateway(channel)
            await stays.open_account(OPENING)
            for number in range(callers):
                gone = aio.insecure_channel(server.address, options=OWN_CONNECTION)
                gateway = Gateway(gone)
                calls = [asyncio.ensure_future(gateway.reserve(f"g{number}-{n}", "brief")) for n in range(AT_ONCE)]
                if number % 3:
                    for _ in range(random.randrange(20)):
                        await asyncio.sleep(0)
                else:  # some have been answered, and have something to leave behind
                    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                if number % 2:
                    for call in calls:
                        call.cancel()
                await gone.close()
                await asyncio.gather(*calls, return_exceptions=True)
                hold = await stays.take(f"s{number}", "brief")
                assert hold.hold_id == f"s{number}"
                assert (await stays.settle(hold.hold_id, 1)).meters[0].used == 1
                taken = max(taken, store.command("ZCARD", "hg:{lab/acme}:due"))
            # A sweep that finds nothing due any more takes the tenant off its list, and this off the cells.
            await until(lambda: not store.command("HEXISTS", "hg:{lab/acme}:cells", "due"), what="the leases to end")
            assert store.command("ZCARD", "hg:{lab/acme}:due") == 0
            balance = await stays.credits()
            assert (balance.held, balance.remaining) == (0, OPENING - callers)
        state = {key: value for key, value in snapshot(store).items() if key != EPOCH_KEY}
        assert broken_rules(state) == leaks(state) == []
    assert taken
    figure(f"{callers} callers with {callers * AT_ONCE:,} calls in flight, 0 holds left")
