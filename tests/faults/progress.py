"""A plugin of pytest for `make faults`: tells of each promise's test as it ends, its time and its figure. A quick run
takes a sample of the cases where a test has many.
"""

import os
import sys
from collections import defaultdict
from typing import Final

import pytest

from tests.faults.sizes import VARIABLE

MOST_CASES: Final = 40
"""Of one test, in a quick run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every n-th case, evenly, so that each kind is among them."""
    if os.environ.get(VARIABLE) != "quick":
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    items[:] = [item for found in cases.values() for item in found[:: -(-len(found) // MOST_CASES)]]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A line for each test that told a figure or failed; the others are dots."""
    figures = [str(value) for name, value in report.user_properties if name == "figure"]
    if report.when != "call" or not (figures or report.failed):
        return
    outcome = "; ".join(figures) if report.passed else "NOT KEPT"
    name = report.nodeid.rpartition("/")[2]
    sys.stdout.write(f"\n{report.duration:6.0f} s  {name}: {outcome}\n")
    sys.stdout.flush()
