"""Runs luacheck on every script as the store gets it, that is with its includes put in.

An include may define what only some scripts use, so "unused" counts only where no script that has the line
uses it. A finding in an include is told once, at the line in its own file.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from server.engine.scripts import LUA, SCRIPT_NAMES, assemble

ROOT = Path(__file__).resolve().parent.parent
UNUSED_CODES = ("W211", "W221", "W231", "W241")
REPORT = re.compile(r"(?P<script>[^:]+)\.lua:(?P<line>\d+):(?P<column>\d+): \((?P<code>\w+)\) (?P<text>.*)")


class Finding(NamedTuple):
    """One complaint of luacheck, and the line of the assembled script that it is about."""

    script: str
    line: int
    code: str
    text: str
    source: str


def main() -> int:
    """Prints what is wrong with the scripts. Returns the exit status."""
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        print("luacheck is not installed. On Debian: apt-get install lua-check")
        return 1
    assembled = {name: assemble(name).splitlines() for name in SCRIPT_NAMES}
    findings = unexcused(run_luacheck(luacheck, assembled), assembled)
    for complaint in dict.fromkeys(f"{origin(found)}: {found.code} {found.text}" for found in findings):
        print(complaint)
    return 1 if findings else 0


def run_luacheck(luacheck: str, assembled: dict[str, list[str]]) -> list[Finding]:
    """Every complaint about the assembled scripts (name → lines)."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in assembled.items():
            Path(folder, f"{name}.lua").write_text("\n".join(lines) + "\n")
        run = subprocess.run(  # noqa: S603  # a fixed command on files made here
            [luacheck, "--config", ROOT / ".luacheckrc", "--formatter", "plain", "--codes", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    reports = [REPORT.fullmatch(line.removeprefix("./")) for line in run.stdout.splitlines()]
    if run.stderr or None in reports:
        sys.exit(f"luacheck said something that this script does not understand:\n{run.stdout}{run.stderr}")
    return [
        Finding(
            script=report["script"],
            line=int(report["line"]),
            code=report["code"],
            text=report["text"],
            source=assembled[report["script"]][int(report["line"]) - 1],
        )
        for report in reports
        if report
    ]


def unexcused(findings: list[Finding], assembled: dict[str, list[str]]) -> list[Finding]:
    """The findings without those about an include's definition that another script uses."""
    unused_in: dict[str, set[str]] = defaultdict(set)
    for found in findings:
        if found.code in UNUSED_CODES:
            unused_in[found.source].add(found.script)

    def is_used_elsewhere(found: Finding) -> bool:
        having = {name for name, lines in assembled.items() if found.source in lines}
        return found.code in UNUSED_CODES and having != unused_in[found.source]

    return [found for found in findings if not is_used_elsewhere(found)]


def origin(found: Finding) -> str:
    """File and line that a finding's line came from; where several files have that line, the first."""
    for path in [LUA / f"{found.script}.lua", *sorted(LUA.rglob("*.lua"))]:
        lines = path.read_text().splitlines()
        if found.source in lines:
            return f"{path.relative_to(ROOT)}:{lines.index(found.source) + 1}"
    return f"{found.script}, line {found.line} of the assembled script"


if __name__ == "__main__":
    sys.exit(main())
