"""`holdgate load`: measures a deployment from its callers' side, and audits it to the unit."""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Final

import orjson
import uvloop
from rich.console import Console

from loadtest.conductor import Conductor
from loadtest.options import add_arguments
from loadtest.plan import LoadPlan
from loadtest.planning import Misused, plan_of
from loadtest.progress import progress_for
from loadtest.rehearsal import Unusable
from loadtest.report import Report
from loadtest.report_html import page
from loadtest.report_text import print_report
from loadtest.target import Unreachable
from server.reaching import TOKEN_NOTE

OK: Final = 0
AUDIT_OFF: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
GIVEN_UP: Final = 130

DESCRIPTION: Final = (
    "Loads a server as its callers would, measures what they see, and compares at the end what the server says with "
    "what the callers were granted and settled."
)
EPILOG: Final = (
    "Exit status: 0; 1 when the audit differs or could not be finished; 2 for arguments or a mix that the server "
    "cannot be asked; 3 when the server cannot be reached; 130 when interrupted before there was a result. "
    f"{TOKEN_NOTE}"
)


def run(chosen: argparse.Namespace) -> int:
    """Plays the run that the arguments ask for; returns the exit status."""
    try:
        plan = plan_of(chosen)
        report = uvloop.run(_play(plan))
    except (Misused, Unusable) as error:
        return _complain(str(error), USAGE)
    except Unreachable as error:
        return _complain(str(error), UNREACHABLE)
    except (asyncio.CancelledError, KeyboardInterrupt):
        return _complain("interrupted", GIVEN_UP)
    print_report(Console(), report)
    try:
        if chosen.json:
            Path(chosen.json).write_bytes(orjson.dumps(report.document(), option=orjson.OPT_INDENT_2))
        if chosen.html:
            Path(chosen.html).write_text(page(report), encoding="utf-8")
    except OSError as error:
        return _complain(f"{error.filename}: cannot be written: {error.strerror}", USAGE)
    return status_of(report)


def status_of(report: Report) -> int:
    """The exit status of a run that came to a report."""
    if not report.plan.audit:
        return OK
    if report.audit is None:
        return AUDIT_OFF
    if report.audit.failure:
        return UNREACHABLE
    return OK if report.audit.clean else AUDIT_OFF


async def _play(plan: LoadPlan) -> Report:
    conductor = Conductor(plan, progress_for(Console(stderr=True)))
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ValueError):  # not the main thread: whoever runs it there handles interrupts
        loop.add_signal_handler(signal.SIGINT, conductor.interrupt)
    return await conductor.run()


def _complain(text: str, status: int) -> int:
    for line in text.splitlines():
        sys.stderr.write(f"load: {line}\n")
    return status


__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run", "status_of"]
