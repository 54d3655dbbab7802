"""How fast samples of use are taken, and whether they come to the sum of a plain computation."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2, quota_service_pb2_grpc

from benchmarks.cpu import Stopwatch
from benchmarks.processes import ROOT, holdgate, store
from benchmarks.standard import WrongAnswer

POLICY: Final = "kisenon"
PER_CALL: Final = 1000
CALLERS: Final = 4
"""Calls under way at once."""

PROJECTS: Final = 20
SIZE: Final = 2000
_HOUR_MS: Final = 3_600_000
_SECONDS: Final = 3600
_WITHIN_S: Final = 60


@dataclass(frozen=True, slots=True)
class Ingest:
    """Samples that were taken, how many in a second, and CPU µs of server and store for one. `off` is by how many
    units the sum differs from that of a plain computation.
    """

    samples: int
    per_s: float
    server_us: float
    store_us: float
    off: int


async def measure(folder: Path, samples: int) -> Ingest:
    """Endpoints' seconds of one organization with some projects, a thousand in a call; each is of another hour."""
    policies = ROOT / "policies" / f"{POLICY}.yaml"
    with store(folder) as behind, holdgate(folder, behind, "--policies", str(policies)) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            requests = list(_requests(samples))
            watches = Stopwatch(server.pids), Stopwatch((behind.pid,))
            for watch in watches:
                watch.lap_us()
            began_s = time.monotonic()
            waiting = iter(requests)

            async def caller() -> None:
                for request in waiting:
                    answer = await stub.RecordUsage(request, timeout=_WITHIN_S)
                    if answer.taken != len(request.samples):
                        raise WrongAnswer(
                            f"{answer.taken} of {len(request.samples)} samples were taken: {answer}"[:500]
                        )

            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            took_s = time.monotonic() - began_s
            server_us, store_us = (watch.lap_us() / samples for watch in watches)
            off = await _difference(channel, requests)
    return Ingest(samples, samples / took_s, server_us, store_us, off)


def _requests(samples: int) -> Iterator[admin.RecordUsageRequest]:
    """Calls with samples of the hours up to this one of the month, of as many endpoints as are needed."""
    now_ms = time.time_ns() // 1_000_000
    hours = max((now_ms % (28 * 24 * _HOUR_MS)) // _HOUR_MS % 24, 1)
    last_ms = now_ms // _HOUR_MS * _HOUR_MS
    for start in range(0, samples, PER_CALL):
        request = admin.RecordUsageRequest(policy=POLICY, tenant="bench")
        for number in range(start, min(start + PER_CALL, samples)):
            request.samples.add(
                meter="cu_milli_hours",
                scope={"project": f"p{number % PROJECTS}"},
                resource=f"e{number // hours}",
                at_ms=last_ms - number % hours * _HOUR_MS,
                size=SIZE,
                seconds=number % _SECONDS,
                sequence=1,
            )
        yield request


async def _difference(channel: grpc.aio.Channel, requests: list[admin.RecordUsageRequest]) -> int:
    """By how many units the organization's use, over all cycles, differs from a plain sum."""
    stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
    usage = await stub.GetUsage(quota_service_pb2.GetUsageRequest(policy=POLICY, tenant="bench"), timeout=_WITHIN_S)
    (compute,) = [quota for quota in usage.quotas if quota.limit_id == "compute"]
    found = sum(cycle.accepted for cycle in (compute.current, *compute.past))
    expected = sum(sample.size * sample.seconds for request in requests for sample in request.samples) // _SECONDS
    return abs(found - expected)
