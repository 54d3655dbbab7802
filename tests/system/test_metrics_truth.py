"""What was counted is what happened, by the store's own records: with callers that vanish, leases that end, and workers
that are killed.
"""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

from grpc import aio

from server.domain.hold import State
from tests.metrics.scraping import Figures, scraped
from tests.store_state import StoredHold
from tests.stores import RunningStore, free_port
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, embedded_store, serving, workers_of
from tests.waiting import until

HOLDS: Final = "hg:{lab/acme}:h:"
CONNECTIONS: Final = 8
ROUNDS: Final = 60
"""Pieces of work over each connection."""

BOOKED: Final = (
    (("settled",), State.SETTLED),
    (("settled_late",), State.SETTLED_LATE),
    (("released",), State.RELEASED),
)


async def test_after_chaos_the_metrics_are_what_the_store_has(tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--workers", "2", "--metrics-address", metrics, "--sweep-interval-ms", "200")
    async with serving(tmp_path, *flags) as server, channels_to(server.address, each=CONNECTIONS) as channels:
        store = embedded_store(tmp_path)
        gateways = [Gateway(channel) for channel in channels]
        await gateways[0].open_account(1_000_000)
        acknowledged = sum(await asyncio.gather(*(chaos(store, gateway, n) for n, gateway in enumerate(gateways))))
        await until(lambda: holds_of(store, "brief")[State.ACTIVE] == 0, what="short leases to end")
        stored = holds_of(store)
        found = scraped(metrics)
        assert stored[State.SETTLED_LATE]
        assert stored[State.EXPIRED]
        assert counted(found, "holds_opened_total") == sum(stored.values())
        assert counted(found, "holds_expired_total") == stored[State.EXPIRED] + stored[State.SETTLED_LATE]
        for labels, state in BOOKED:
            assert found["holdgate_holds_ended_total"][labels] == stored[state]
        assert found["holdgate_settle_lag_seconds_count"][()] == stored[State.SETTLED] + stored[State.SETTLED_LATE]
        # Who was gone before the answer was told nothing, and still took something.
        granted = found["holdgate_decisions_total"]["lab", "granted", ""]
        assert acknowledged <= granted <= sum(stored.values())
        open_holds = stored[State.ACTIVE]
        await until(lambda: scraped(metrics).get("holdgate_holds_active") == {("lab",): open_holds}, what="a census")


async def test_what_a_killed_worker_had_counted_stays_counted(tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--workers", "2", "--metrics-address", metrics)
    async with serving(tmp_path, *flags) as server, channels_to(server.address, each=CONNECTIONS) as channels:
        store = embedded_store(tmp_path)
        gateways = [Gateway(channel) for channel in channels]
        await gateways[0].open_account(1_000_000)
        work = [asyncio.create_task(plain_work(gateway, n)) for n, gateway in enumerate(gateways)]
        await until(lambda: counted(scraped(metrics), "holds_opened_total") > 100, what="some work to be done")
        os.kill(workers_of(server)[0], signal.SIGKILL)
        acknowledged = sum(await asyncio.gather(*work))
        await until(lambda: scraped(metrics)["holdgate_store_up"] == {(): 1}, what="another worker")
        found = scraped(metrics)
        assert found["holdgate_processes"] == {(): 2}
        stored = sum(holds_of(store).values())
        assert acknowledged <= counted(found, "holds_opened_total") <= stored


async def chaos(store: RunningStore, gateway: Gateway, seed: int) -> int:
    """Work of every kind, some of it given up by its caller; how many grants were acknowledged."""
    random = Random(seed)  # noqa: S311  # a story that can be told again
    grants = 0
    for number in range(ROUNDS):
        brief = random.random() < 0.2
        hold_id = f"{'brief' if brief else 'long'}-{seed}-{number}"
        call = asyncio.ensure_future(gateway.take(hold_id, "brief" if brief else "work"))
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.003)
            call.cancel()
            continue
        await call
        grants += 1
        match random.randrange(4):
            case 0:
                await gateway.settle(hold_id, 1)
            case 1:
                await gateway.release(hold_id)
            case 2:
                await asyncio.gather(*(gateway.settle(hold_id, 1) for _ in range(2)))
            case 3 if brief:
                await settle_late(store, gateway, hold_id)
    return grants


async def settle_late(store: RunningStore, gateway: Gateway, hold_id: str) -> None:
    """Charges for a hold after its lease."""
    await until(lambda: state_of(store, hold_id) == State.EXPIRED, what="the lease to end")
    await gateway.settle(hold_id, 2)


def state_of(store: RunningStore, hold_id: str) -> State:
    """Where a hold is."""
    return State(StoredHold.parse(store.command("GET", f"{HOLDS}{hold_id}")).state)


def holds_of(store: RunningStore, kind: str = "") -> Counter[State]:
    """How many holds are where; of those whose ids begin with `kind`."""
    names = store.command("KEYS", f"{HOLDS}{kind}*")
    return Counter(state_of(store, name.decode().removeprefix(HOLDS)) for name in names)


def counted(found: Figures, name: str) -> float:
    """A counter, whatever its labels."""
    return sum(found.get(f"holdgate_{name}", {}).values())


async def plain_work(gateway: Gateway, seed: int) -> int:
    """Takes until the connection breaks, or all is taken; how many grants were acknowledged."""
    for number in range(ROUNDS * 5):
        try:
            await gateway.take(f"{seed}-{number}")
        except aio.AioRpcError:
            return number
    return ROUNDS * 5
