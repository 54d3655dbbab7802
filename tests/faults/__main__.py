"""`make faults`: every promise about faults, held to at full size; ends with the table promise, test, figure.

`--quick` takes a fair sample in under a minute. The exit status is 1 when a promise was not kept.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

import yaml

from tests.faults.sizes import VARIABLE
from tests.simulation.runs import play_steps

ROOT: Final = Path(__file__).parents[2]
PROMISES: Final = Path(__file__).with_name("promises.yaml")
STEPS: Final = {"quick": 20_000, "full": 1_000_000}
MOST_S: Final = "1200"
"""Seconds that one test may take; those at full size take minutes."""
MOST_ALL_S: Final = 5400
"""Seconds that all of them together may take."""
SIMULATED: Final = "No sequence of operations, losses, crashes and clock steps breaks an invariant"
BEGIN, END = "<!-- table: written by make faults -->\n", "<!-- end of the table -->\n"


class Result(NamedTuple):
    """What became of one test: how its cases ended, and the figures that they told."""

    passed: int
    skipped: int
    failed: int
    figures: Sequence[str]

    def told(self) -> str:
        """In a cell of the table."""
        if self.failed:
            return "**not kept**"
        if not self.passed:
            return "not run here"
        return "; ".join(self.figures) or ("kept" if self.passed == 1 else f"kept in {self.passed} cases")


def main() -> int:
    """Runs everything and prints the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample, in under a minute")
    parser.add_argument("--write", type=Path, help="the page whose table is written")
    words = parser.parse_args()
    size = "quick" if words.quick else "full"
    seed = secrets.randbelow(10**9)
    sys.stdout.write(f"simulating {STEPS[size]:,} steps of seed {seed}\n")
    sys.stdout.flush()
    run = play_steps(seed, STEPS[size], os.cpu_count() or 1)
    simulated = (
        run.failed or f"seed {seed}: {run.steps:,} steps, {run.simulated_s / 86400:,.0f} simulated days, 0 violations"
    )
    promises = {row["test"]: row["promise"] for row in yaml.safe_load(PROMISES.read_text())}
    results, status = run_tests(size, list(promises))
    rows = [f"| {SIMULATED} | `make simulate` | {'**not kept**' if run.failed else simulated} |"]
    rows += [row(promise, test, results.get(test)) for test, promise in promises.items()]
    table = "\n".join(["| promise | test | figure |", "|---|---|---|", *rows, ""])
    if run.failed:
        sys.stdout.write(f"{run.failed}\n")
    sys.stdout.write(table)
    failed = bool(run.failed) or status != 0
    if words.write is not None and not failed:
        page = words.write.read_text()
        head, _, rest = page.partition(BEGIN)
        words.write.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    return int(failed)


def run_tests(size: str, names: Sequence[str]) -> tuple[Mapping[str, Result], int]:
    """Runs tests, by file and function, each with all of its cases; and pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        command += ["-o", "junit_family=xunit1", "--tb=short", "--timeout", MOST_S]
        command += ["-p", "tests.faults.progress"]
        if size == "quick":  # what two stores are asked alike, one is asked; tests wait more than they work
            command += ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal", "-k", "not redis7"]
        status = subprocess.run(  # noqa: S603  # our own words
            [*command, *names], cwd=ROOT, env={**os.environ, VARIABLE: size}, check=False, timeout=MOST_ALL_S
        ).returncode
        return read_report(report), status


def read_report(path: Path) -> dict[str, Result]:
    """What pytest's report says of each function."""
    found: dict[str, list[ET.Element]] = defaultdict(list)
    for case in ET.parse(path).iter("testcase"):  # noqa: S314  # our own pytest's
        found[f"{case.get('file')}::{case.get('name', '').partition('[')[0]}"].append(case)
    return {test: result_of(cases) for test, cases in found.items()}


def result_of(cases: Sequence[ET.Element]) -> Result:
    """One function's cases, together."""
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    figures = [
        prop.get("value", "") for case in cases for prop in case.iter("property") if prop.get("name") == "figure"
    ]
    return Result(len(cases) - failed - skipped, skipped, failed, figures)


def row(promise: str, test: str, result: Result | None) -> str:
    """A row of the table."""
    name = test.removeprefix("tests/").replace(".py::", "::")
    return f"| {promise} | `{name}` | {result.told() if result is not None else '**not run**'} |"


if __name__ == "__main__":
    sys.exit(main())
