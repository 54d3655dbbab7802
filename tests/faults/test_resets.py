"""Calls that are opened and reset as fast as they go out: no neighbour's call fails, and the server does not grow."""

import asyncio
from pathlib import Path
from typing import Final

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.faults.test_memory import rss_bytes
from tests.rpc.transport.raw import RawClient
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, serving

METHOD: Final = "quota.v1.QuotaService/CheckAndReserve"
AT_ONCE: Final = 100
MOST_GROWTH_BYTES: Final = 16 * 1024 * 1024


async def reset(address: str, calls: int) -> None:
    """Opens so many calls and resets each at once, over a new connection when one was ended."""
    left = calls
    while left > 0:
        async with RawClient.to(address) as raw:
            going = True
            while going and left > 0:
                for _ in range(AT_ONCE):
                    raw.reset(raw.open(METHOD))
                left -= AT_ONCE
                going = await raw.try_flush()
                await asyncio.sleep(0)


async def test_calls_opened_and_reset_by_the_thousand_leave_nothing(tmp_path: Path, figure: Figure) -> None:
    """On the transport for strangers; gRPC's core may cut a neighbour's call off with CANCELLED."""
    calls, answered = size(2_000, 5_000, 100_000), 0
    async with serving(tmp_path, "--transport", "asgi") as server, channels_to(server.address) as (channel,):
        gateway = Gateway(channel)
        await gateway.open_account(1000)
        await reset(server.address, calls // 10)
        before = rss_bytes(server)
        attack = asyncio.create_task(reset(server.address, calls))
        while not attack.done():
            await gateway.poll()
            answered += 1
        await attack
        assert answered
        assert (await gateway.take("after")).hold_id == "after"
        growth = rss_bytes(server) - before
    assert growth <= MOST_GROWTH_BYTES
    figure(f"{calls:,} calls reset, 0 of {answered:,} of a neighbour failed, {growth / 2**20:+.1f} MiB")
