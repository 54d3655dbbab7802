"""`python -m benchmarks`: every budget of a decision, measured beside its yardstick."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson
import uvloop

from benchmarks import (
    audited,
    enforced,
    envoys,
    growth,
    ingest,
    memory,
    overload,
    queues,
    redis_cost,
    server_cost,
    tables,
    throughput,
    workers,
)
from benchmarks.efforts import FULL, QUICK, Effort
from benchmarks.measured import Measured
from benchmarks.page import page
from benchmarks.processes import NotStarted
from benchmarks.standard import WrongAnswer

FAILED: Final = 1
ENVOY_CALLS_PER_S: Final = 500

_Measure = Callable[[Path, Effort], Awaitable[Any]]
_Show = Callable[[Any], tables.Table]

SECTIONS: Final[Mapping[str, tuple[_Measure, _Show]]] = MappingProxyType(
    {
        "server": (lambda folder, effort: server_cost.measure(folder, effort.server_rounds), tables.server),
        "redis": (lambda folder, effort: redis_cost.measure(folder, effort.redis_rounds), tables.redis),
        "memory": (lambda folder, effort: memory.measure(folder, effort.memory_tenants), tables.memory),
        "throughput": (lambda folder, effort: throughput.measure(folder, effort.throughput), tables.throughput),
        "workers": (lambda folder, effort: workers.measure(folder, effort.workers), tables.workers),
        "audited": (lambda folder, effort: audited.measure(folder, effort.audit_s), tables.audited),
        "ingest": (lambda folder, effort: ingest.measure(folder, effort.samples), tables.ingest),
        "growth": (lambda folder, effort: growth.measure(folder, effort.growth, say), tables.growth),
    }
)
"""By the name of its field in `Measured`: how a section is measured, and how it is shown."""

ASIDE: Final[Mapping[str, tuple[_Measure, _Show]]] = MappingProxyType(
    {
        "envoy": (lambda folder, effort: envoys.measure(folder, ENVOY_CALLS_PER_S, effort.envoy_s), tables.envoy),
        "queues": (lambda folder, _effort: queues.measure(folder), tables.queues),
        "overload": (lambda folder, effort: overload.measure(folder, effort.throughput), tables.overload),
    }
)
"""Sections beside the budgets, which are measured when `--only` names them."""

ALL: Final = MappingProxyType({**SECTIONS, **ASIDE})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the arguments ask for; returns the exit status."""
    chosen = _parser().parse_args(arguments)
    effort = QUICK if chosen.quick else FULL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # leaves every block, which ends what was started
    try:
        found = _run(chosen.only or list(SECTIONS), effort.large() if chosen.large else effort)
    except (NotStarted, WrongAnswer) as error:
        say("\n".join([f"benchmarks: {error}", *getattr(error, "__notes__", [])]))
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    if chosen.only:
        for name, result in found.items():
            _print(ALL[name][1](result).text())
        return 0
    measured = Measured(**found)
    figures = measured.figures()
    if chosen.write:
        chosen.write.write_text(page(measured), encoding="utf-8")
    _print(tables.budgets(figures).text())
    _print(f"bench: {orjson.dumps(figures).decode()}")
    return 0


def _run(names: Sequence[str], effort: Effort) -> dict[str, Any]:
    """The results by section."""
    return uvloop.run(_measure(names, effort))


async def _measure(names: Sequence[str], effort: Effort) -> dict[str, Any]:
    """The results by section. That the limits are enforced is seen first."""
    found: dict[str, Any] = {}
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        say("enforced: each of the five limits refuses")
        await enforced.check(Path(folder) / "enforced")
        for name in names:
            say(f"{name}, after {time.monotonic() - began_s:.0f} s")
            found[name] = await ALL[name][0](Path(folder) / name, effort)
    say(f"done after {time.monotonic() - began_s:.0f} s")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute in all, in place of some minutes")
    parser.add_argument("--large", action="store_true", help="a million tenants, and holds, at the end of the curves")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(ALL),
        help=f"this section alone; may be repeated. Of {', '.join(ALL)}",
        metavar="SECTION",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of docs/")
    return parser


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
