"""A primary and its replica: what a failover loses, and what a store does that has lost its replica."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.rpc.healths import health_turns
from tests.store_state import broken_rules, snapshot
from tests.stores import CuttingProxy, RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until, until_answered

LAG_S: Final = 1
WANTS_A_REPLICA: Final = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", str(LAG_S))
OPENING: Final = 1_000_000
AT_ONCE: Final = 4


class MovingAddress(CuttingProxy):
    """What stands in front of a primary and its replica."""

    def leads_to(self, store: RunningStore) -> None:
        self._store = store
        self.cut()


class Line(CuttingProxy):
    """Between a primary and its replica. With `swallow_replies` nothing passes, either way, and nobody is told."""

    async def _requests(self, source: asyncio.StreamReader, *ends: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not self.swallow_replies:
                ends[0].write(data)
        self._hang_up(*ends)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])


class Pair(NamedTuple):
    primary: RunningStore
    replica: RunningStore
    line: Line
    gateways: list[Gateway]
    address: MovingAddress
    channel: aio.Channel


@asynccontextmanager
async def replicated(folder: Path) -> AsyncIterator[Pair]:
    """A server before a primary that writes only while its replica follows."""
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(running_store(*WANTS_A_REPLICA, tcp=True))
        replica = stack.enter_context(running_store(tcp=True))
        line, address = Line(primary), MovingAddress(primary)
        await line.start()
        stack.push_async_callback(line.stop)
        await address.start()
        stack.push_async_callback(address.stop)
        replica.command("REPLICAOF", "127.0.0.1", line.port)
        await until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), what="the replica")
        async with (
            serving(folder, "--redis-url", address.url) as server,
            channels_to(server.address, each=AT_ONCE) as channels,
        ):
            await health_turns(channels[0], HealthCheckResponse.SERVING)
            gateways = [Gateway(channel) for channel in channels]
            await until_answered(lambda: gateways[0].open_account(OPENING))
            yield Pair(primary, replica, line, gateways, address, channels[0])


async def take_until_refused(gateway: Gateway, name: str, answered: dict[str, float]) -> StatusCode:
    """Takes one piece of work after the other, and notes when each was granted; how that ended."""
    number = 0
    while True:
        number += 1
        try:
            decision = await gateway.take(f"{name}-{number}")
        except aio.AioRpcError as error:
            return error.code()
        answered[decision.hold_id] = monotonic()


async def refused_by_a_primary_alone(pair: Pair, name: str, answered: dict[str, float]) -> float:
    """Breaks the line to the replica while work is taken; how long the primary went on without it."""
    crew = [
        asyncio.create_task(take_until_refused(gateway, f"{name}{n}", answered))
        for n, gateway in enumerate(pair.gateways)
    ]
    enough = len(answered) + 50
    await until(lambda: len(answered) >= enough, what="grants")
    pair.line.swallow_replies = True
    alone_at_s = monotonic()
    assert await asyncio.gather(*crew) == [StatusCode.UNAVAILABLE] * AT_ONCE
    return monotonic() - alone_at_s


async def test_without_its_replica_a_store_that_wants_one_takes_nothing(tmp_path: Path, figure: Figure) -> None:
    """Once it has noticed, which takes its lag and a second; all that was granted is there."""
    answered: dict[str, float] = {}
    longest_s = 0.0
    async with replicated(tmp_path) as pair:
        for turn in range(size(1, 1, 5)):
            longest_s = max(longest_s, await refused_by_a_primary_alone(pair, f"t{turn}-", answered))
            pair.line.swallow_replies = False
            pair.line.cut()
            back = await until_answered(partial(pair.gateways[0].take, f"back-{turn}"))
            answered[back.hold_id] = monotonic()
        held = (await until_answered(pair.gateways[0].credits)).held
        # A call that was cut off may have taken its place unanswered.
        assert 0 <= held - PRICE * len(answered) <= PRICE * AT_ONCE * size(1, 1, 5)
    figure(f"refused {longest_s:.1f} s after it had lost its replica at the latest, with a lag of {LAG_S} s")


async def test_a_failover_loses_no_more_than_its_replica_had_not_got(tmp_path: Path, figure: Figure) -> None:
    """The line between them breaks, the primary is killed, the replica takes over: what was granted before is there,
    what is lost was granted last, what is left adds up, and work goes on.
    """
    kills, lost, granted, longest_s = size(1, 1, 10), 0, 0, 0.0
    for kill in range(kills):
        (folder := tmp_path / str(kill)).mkdir()
        async with replicated(folder) as pair:
            gateway, answered = pair.gateways[0], dict[str, float]()
            await until_answered(partial(gateway.take, "first"))
            longest_s = max(longest_s, await refused_by_a_primary_alone(pair, "w", answered))
            pair.primary.kill()
            pair.replica.command("REPLICAOF", "NO", "ONE")
            pair.address.leads_to(pair.replica)
            await until_answered(partial(gateway.settle, "first", 1))
            left = {i for i in answered if pair.replica.command("EXISTS", f"hg:{{lab/acme}}:h:{i}")}
            assert broken_rules(snapshot(pair.replica)) == []
            for caller in range(AT_ONCE):
                numbers = sorted(int(i.rpartition("-")[2]) for i in left if i.startswith(f"w{caller}-"))
                assert numbers == list(range(1, len(numbers) + 1)), "what is lost is what came last"
            await until_answered(partial(gateway.take, "after"))
            held = (await gateway.credits()).held
            assert 0 <= held - PRICE * (len(left) + 1) <= PRICE * AT_ONCE
            lost, granted = lost + len(answered) - len(left), granted + len(answered)
    figure(
        f"{kills} failovers, {lost:,} of {granted:,} grants lost, all of them made in the last {longest_s:.1f} s,"
        " without the replica"
    )
