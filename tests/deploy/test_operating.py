"""What is shipped for operators fits the server: dashboard and alerts name what exists, the page explains all of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest
import yaml

from server.metrics.catalogue import ALL, Metric
from tests.stores import ROOT

DASHBOARD: Final = ROOT / "deploy" / "dashboard.json"
ALERTS: Final = ROOT / "deploy" / "alerts.yaml"
PAGE: Final = ROOT / "docs" / "operating.md"

PROMTOOL: Final = shutil.which("promtool")
SAMPLE: Final = re.compile(r"(holdgate_\w+)(?:\{([^}]*)\})?")
LABEL: Final = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)")
BY: Final = re.compile(r"by \(([^)]*)\)")
EVERYWHERE: Final = {"instance", "le"}
"""Labels that Prometheus adds."""


def samples_of(metric: Metric) -> set[str]:
    if metric.bounds_us:
        return {f"{metric.shown}_{part}" for part in ("bucket", "sum", "count")}
    return {metric.shown}


SHOWN: Final = {sample: metric for metric in ALL for sample in samples_of(metric)}


def alert_rules() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for rule in alert_rules():
        yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_asks_for_metrics_and_labels_that_there_are(expression: str) -> None:
    found = SAMPLE.findall(expression)
    assert found
    assert {name for name, _ in found} <= set(SHOWN)
    known = EVERYWHERE | {label for name, _ in found for label in SHOWN[name].labels}
    grouped = {label.strip() for names in BY.findall(expression) for label in names.split(",")}
    asked = {label for _, selector in found for label in LABEL.findall(selector)}
    assert grouped | asked <= known


def test_the_dashboard_shows_every_metric() -> None:
    text = DASHBOARD.read_text()
    assert [metric.shown for metric in ALL if metric.shown not in text] == []


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    sections = re.findall(r"^### (Holdgate\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in alert_rules()]


def test_the_page_has_every_metric_as_it_is() -> None:
    rows = re.findall(r"^\| `(holdgate_\w+)` \| (.*?) ?\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(name, re.findall(r"`(\w+)`", labels), about) for name, labels, about in rows] == [
        (metric.shown, list(metric.labels), metric.about) for metric in ALL
    ]


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on the PATH (Debian's package prometheus has it)")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    assert done.returncode == 0, done.stdout + done.stderr
