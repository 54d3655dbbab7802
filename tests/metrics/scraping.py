"""What a server shows of itself, as Prometheus would read it."""

from typing import Final
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from server.metrics.catalogue import ALL

_LABELS: Final = {metric.shown.removesuffix("_total"): metric.labels for metric in ALL}

Figures = dict[str, dict[tuple[str, ...], float]]
"""Samples by name and values of their labels."""


def scraped(address: str) -> Figures:
    """All samples now; values in the order of the metric's labels, and of a bucket its bound at the end."""
    with urlopen(f"http://{address}/metrics") as answer:  # a server of this test's own
        text = answer.read().decode()
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names = [*_LABELS[family.name], "le"]
            found.setdefault(sample.name, {})[tuple(sample.labels[n] for n in names if n in sample.labels)] = (
                sample.value
            )
    return found
