"""A server's memory does not grow with the calls that it answers, its store's falls back to what stands, and the many
small charges add up to the unit.
"""

import asyncio
from pathlib import Path
from typing import Final

from grpc import aio
from quota.v1 import quota_service_pb2 as quota
from quota.v1.decision_pb2 import OUTCOME_GRANTED
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.rpc.processes import ServerProcess
from tests.stores import RunningStore, running_store
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until

POLICY: Final = Path(__file__).with_name("frugal.yaml")
OPENING: Final = 10**12
TENANTS: Final = 20
AT_ONCE: Final = 4
IN_A_BATCH: Final = 100
USED: Final = 7
PARTS: Final = 10
MOST_GROWTH_BYTES: Final = 10 * 1024 * 1024
"""For all calls of a run after the warm-up: of a million, one byte in a hundred thousandth of them would pass it."""
MOST_LEFT_BYTES: Final = 512 * 1024


def rss_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def used_bytes(store: RunningStore) -> int:
    info: bytes = store.command("INFO", "memory")
    return int(info.partition(b"used_memory_dataset:")[2].split(b"\r\n")[0])


async def make_calls(channel: aio.Channel, name: str, calls: int) -> int:
    """Reserves and settles, mostly in batches, one in ten by a call of its own; how many credits that cost."""
    stub, spent = QuotaServiceStub(channel), 0
    for number in range(calls // (2 * IN_A_BATCH)):
        tenant = f"t{number % TENANTS}"
        ids = [f"{name}-{number}-{index}" for index in range(IN_A_BATCH)]
        asks = [
            quota.CheckAndReserveRequest(tenant=tenant, request_id=i, action="work", amounts={"credits": 10})
            for i in ids
        ]
        for ask in asks[:10]:
            assert (await stub.CheckAndReserve(ask)).decision.outcome == OUTCOME_GRANTED
        taken = await stub.Batch(
            quota.BatchRequest(operations=[quota.Operation(check_and_reserve=ask) for ask in asks[10:]])
        )
        assert all(r.check_and_reserve.decision.outcome == OUTCOME_GRANTED for r in taken.results)
        usage = quota.Usage(used={"credits": USED})
        ends = [quota.SettleRequest(tenant=tenant, hold_id=i, usage=usage) for i in ids]
        for end in ends[:10]:
            assert (await stub.Settle(end)).applied
        ended = await stub.Batch(quota.BatchRequest(operations=[quota.Operation(settle=end) for end in ends[10:]]))
        assert all(r.settle.applied for r in ended.results)
        spent += USED * IN_A_BATCH
    return spent


async def test_memory_is_flat_over_many_calls(tmp_path: Path, figure: Figure) -> None:
    calls = size(8_000, 10_000, 1_000_000)
    with running_store("--appendonly", "no") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url, "--policies", str(POLICY)) as server,
            channels_to(server.address, each=AT_ONCE) as channels,
        ):
            for number in range(TENANTS):
                await Gateway(channels[0], f"t{number}").open_account(OPENING)

            spent = 0

            async def part(name: str) -> int:
                nonlocal spent
                each = max(calls // PARTS // AT_ONCE, 2 * IN_A_BATCH)
                spent += sum(
                    await asyncio.gather(*(make_calls(c, f"{name}-{n}", each) for n, c in enumerate(channels)))
                )
                return rss_bytes(server)

            await part("warm")
            await until(lambda: holds(store) == 0, what="the records of the warm-up to leave")
            stands = used_bytes(store)
            sizes = [await part(f"p{number}") for number in range(PARTS)]
            await until(lambda: holds(store) == 0, what="all records to leave")
            left = used_bytes(store) - stands
            balances = [await Gateway(channels[0], f"t{number}").credits() for number in range(TENANTS)]
            assert sum(balance.remaining for balance in balances) == TENANTS * OPENING - spent
    growth = max(sizes[PARTS // 2 :]) - sizes[0]
    assert growth <= MOST_GROWTH_BYTES, sizes
    assert left <= MOST_LEFT_BYTES
    figure(
        f"{calls:,} operations, {spent:,} credits charged to the unit:"
        f" the server {growth / 2**20:+.1f} MiB after the first tenth,"
        f" the store {left / 1024:+.0f} KiB once its tombstones had ended"
    )


def holds(store: RunningStore) -> int:
    """Records of holds that are left; each that is past its time leaves when it is looked at."""
    return sum(bool(store.command("EXISTS", key)) for key in store.command("KEYS", "hg:*:h:*"))
