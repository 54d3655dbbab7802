"""How much is done for the figures: under a minute in all, or as much as it takes to publish them."""

from dataclasses import dataclass, replace
from typing import Final

from benchmarks.growth import Sizes
from benchmarks.throughput import Slices

LARGEST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds, tenants, sizes and seconds of each section."""

    redis_rounds: int
    server_rounds: int
    memory_tenants: int
    growth: Sizes
    throughput: Slices
    workers: Slices
    audit_s: float
    envoy_s: float
    samples: int

    def large(self) -> "Effort":
        """With a million tenants, and holds of one tenant, at the end of the curves."""
        return replace(self, growth=replace(self.growth, beyond=(*self.growth.beyond, LARGEST)))


QUICK: Final = Effort(
    redis_rounds=20,
    server_rounds=8,
    memory_tenants=2000,
    growth=Sizes(beyond=(10_000,), turns=15),
    throughput=Slices(number=3, decisions=1500),
    workers=Slices(number=4, decisions=1000),
    audit_s=2,
    envoy_s=5,
    samples=20_000,
)

FULL: Final = Effort(
    redis_rounds=100,
    server_rounds=60,
    memory_tenants=10_000,
    growth=Sizes(beyond=(1_000, 10_000, 100_000), turns=60),
    throughput=Slices(number=5, decisions=20_000),
    workers=Slices(number=7, decisions=5000),
    audit_s=15,
    envoy_s=30,
    samples=100_000,
)
