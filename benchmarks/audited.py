"""A run of the load test, whose audit compares what the server says with what the callers were granted and settled."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.processes import holdgate, store
from benchmarks.standard import ACTION, PLAN, POLICY, WrongAnswer
from loadtest.conductor import Conductor
from loadtest.options import add_arguments
from loadtest.plan import LoadPlan
from loadtest.planning import plan_of
from loadtest.progress import PlainProgress


@dataclass(frozen=True, slots=True)
class Audited:
    """How much was compared, and by how many units the two sides differ."""

    decisions: int
    tenants: int
    figures: int
    units_off: int


async def measure(folder: Path, duration_s: float) -> Audited:
    """Standard decisions of varying amounts, settled in part, released and abandoned, some of them asked twice."""
    with store(folder) as behind, holdgate(folder, behind) as server:
        report = await Conductor(_plan(server.address, duration_s), PlainProgress(Console(stderr=True))).run()
    audit = report.audit
    if audit is None or audit.failure or audit.unknown:
        raise WrongAnswer(f"the audit could not be finished: {audit and (audit.failure or audit.unknown)}")
    return Audited(report.counts.decisions, audit.tenants, audit.figures, audit.units_off)


def _plan(address: str, duration_s: float) -> LoadPlan:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = f"{ACTION} tokens=500..3000 credits=5..40 @project=prj_1,prj_2"
    words = ["--target", address, "--policy", POLICY, "--plan", PLAN, "--setup", "--request", asked]
    words += ["--settle", "90", "--release", "7", "--abandon", "3", "--hold", "0s..50ms", "--delivered", "0.25..1"]
    words += ["--spread", "zipf:1.1", "--repeats", "0.02", "--callers", "32"]
    words += ["--warm-up", "0.5s", "--duration", f"{duration_s:g}s"]
    return plan_of(parser.parse_args(words))
