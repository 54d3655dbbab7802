"""Everything that one run measured, and the figures that it comes to."""

from dataclasses import dataclass
from typing import Final

from benchmarks.audited import Audited
from benchmarks.growth import Growth
from benchmarks.ingest import Ingest
from benchmarks.memory import Memory
from benchmarks.redis_cost import RedisCost
from benchmarks.server_cost import ServerCost
from benchmarks.throughput import Throughput
from benchmarks.workers import Workers

RATIO: Final = 3
TENTHS: Final = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, section by section."""

    server: ServerCost
    redis: RedisCost
    memory: Memory
    growth: Growth
    throughput: Throughput
    workers: Workers
    audited: Audited
    ingest: Ingest

    def figures(self) -> dict[str, float]:
        """The line at the end of a run: figures by name."""
        server, redis, memory, peak = self.server, self.redis, self.memory, self.throughput.peak
        return {
            "server_cpu_ratio_unary": round(server.unary.reserve.ratio, RATIO),
            "server_cpu_ratio_batch32": round(server.batch.reserve.ratio, RATIO),
            "server_cpu_ratio_stream32": round(server.stream.reserve.ratio, RATIO),
            "redis_cpu_ratio": round(redis.reserve.ratio, RATIO),
            "redis_cpu_ratio_settle": round(redis.settle.ratio, RATIO),
            "server_cpu_us_unary": round(server.unary.reserve.subject, TENTHS),
            "redis_cpu_us": round(redis.reserve.subject, TENTHS),
            "decisions_per_s": round(peak.decisions_per_s),
            "p50_ms": round(peak.p50_ms, RATIO),
            "p99_ms_half_peak": round(self.throughput.half.p99_ms, RATIO),
            "tenant_bytes": memory.tenant.larger,
            "hold_bytes": memory.hold.larger,
            "tombstone_bytes": memory.tombstone.larger,
            "growth_ratio": round(self.growth.worst, RATIO),
            "workers_ratio": round(self.workers.capacity_ratio, RATIO),
            "audit_units_off": self.audited.units_off,
            "samples_per_s": round(self.ingest.per_s),
            "sample_units_off": self.ingest.off,
        }
