"""However many ask while the store is gone, a server that goes on without it takes no more memory than it may."""

from pathlib import Path
from time import monotonic
from typing import Final

from grpc import aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.engine.local_allowance import MOST_CELLS
from tests.conftest import Figure
from tests.faults.sizes import size
from tests.faults.test_memory import rss_bytes
from tests.rpc.healths import health_turns
from tests.stores import running_store
from tests.system.servers import channels_to, serving

IN_A_BATCH: Final = 250
MOST_GROWTH_BYTES: Final = 32 * 1024 * 1024


async def asked(channel: aio.Channel, first: int, last: int) -> int:
    """Subjects that nobody has heard of ask, each once; how many were granted something."""
    stub, granted = QuotaServiceStub(channel), 0
    for begin in range(first, last, IN_A_BATCH):
        asks = [
            quota.Operation(check_and_reserve=quota.CheckAndReserveRequest(tenant=f"subject-{number}", action="poll"))
            for number in range(begin, min(begin + IN_A_BATCH, last))
        ]
        for result in (await stub.Batch(quota.BatchRequest(operations=asks))).results:
            assert result.HasField("error") or result.check_and_reserve.decision.degraded
            granted += not result.HasField("error")
    return granted


async def test_a_million_subjects_in_an_outage_take_a_bounded_memory(tmp_path: Path, figure: Figure) -> None:
    """Once a process counts as many windows as it may, nothing more is granted and nothing more is kept."""
    subjects = size(20_000, 20_000, 1_000_000)
    with running_store("--appendonly", "no") as store:
        flags = ("--redis-url", store.url, "--store-timeout-ms", "300")
        async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
            await health_turns(channel, HealthCheckResponse.SERVING)
            store.kill()
            await health_turns(channel, HealthCheckResponse.NOT_SERVING)
            warm = await asked(channel, 0, IN_A_BATCH)
            before, began_s = rss_bytes(server), monotonic()
            granted = warm + await asked(channel, IN_A_BATCH, subjects)
            growth, took_s = rss_bytes(server) - before, monotonic() - began_s
    assert warm
    # What counts for a minute makes room after two.
    assert granted <= MOST_CELLS * (1 + took_s // 60)
    assert growth <= MOST_GROWTH_BYTES
    figure(f"{subjects:,} subjects, {granted:,} granted something, the server {growth / 2**20:+.1f} MiB")
