"""The metrics as Prometheus reads them, on a listener of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from server.metrics.book import Labels, Series, read_books
from server.metrics.catalogue import ALL, Across, Metric

_US_PER_S: Final = 1_000_000

_JOINED: Final[Mapping[Across, Callable[[Sequence[int]], int]]] = MappingProxyType(
    {Across.SUM: sum, Across.MOST: max, Across.LEAST: min}
)

_Found: TypeAlias = dict[Labels, list[tuple[int, ...]]]


class Books(Collector):
    """All books of a folder as one: what several processes counted is added up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Family]:
        """Reads them."""
        return families(read_books(self._folder))


def families(series: Iterable[Series]) -> Iterable[Family]:
    """The series in the form of the Prometheus client."""
    found: dict[str, _Found] = {metric.name: {} for metric in ALL}
    for metric, labels, numbers in series:
        found[metric.name].setdefault(labels, []).append(numbers)
    for metric in ALL:
        yield _histogram(metric, found[metric.name]) if metric.bounds_us else _plain(metric, found[metric.name])


def _plain(metric: Metric, found: _Found) -> Family:
    kind = CounterMetricFamily if metric.counts else GaugeMetricFamily
    family = kind(metric.shown, metric.about, labels=metric.labels)
    for labels, numbers in found.items():
        value = _JOINED[metric.across or Across.SUM]([number for (number,) in numbers])
        family.add_metric(labels, value / metric.per_unit)
    return family


def _histogram(metric: Metric, found: _Found) -> Family:
    family = HistogramMetricFamily(metric.shown, metric.about, labels=metric.labels)
    bounds = [*(str(bound / _US_PER_S) for bound in metric.bounds_us), "+Inf"]
    for labels, numbers in found.items():
        *counts, total_us = map(sum, zip(*numbers, strict=True))
        buckets = list(zip(bounds, accumulate(counts), strict=True))
        family.add_metric(labels, buckets, total_us / _US_PER_S)
    return family


@asynccontextmanager
async def listener(folder: Path, address: str) -> AsyncIterator[str]:
    """Answers scrapes of the folder's books at `host:port`; the address with the port that was taken. Raises OSError.

    It runs in threads of its own: a slow scraper holds up no call.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(Books(folder))
    server, thread = start_http_server(int(port), host.strip("[]"), registry)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
