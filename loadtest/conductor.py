"""A run from beginning to end: reach the server, set up, rehearse, load, audit, report."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import grpc

from loadtest import accounts
from loadtest.audit import Audit
from loadtest.auditor import Auditor
from loadtest.callers import CallFailed
from loadtest.crew import Crew, Findings
from loadtest.plan import LoadPlan, Open
from loadtest.progress import Progress
from loadtest.rehearsal import Unusable, rehearse
from loadtest.report import Report, make_report
from loadtest.target import Unreachable, reach
from loadtest.totals import Totals

_TELL_S: Final = 0.25
_BUSY: Final = 0.9
"""Share of a core from which on a process of the load may be measuring itself."""
_SHORT: Final = 0.98
"""Share of the asked rate below which it was not kept."""


Interrupt = Callable[[], object]
"""What an interrupt does in a phase of the run."""


class Conductor:
    """One run of a plan."""

    def __init__(self, plan: LoadPlan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._notes: list[str] = []
        self._on_interrupt: Interrupt = lambda: None

    def interrupt(self) -> None:
        """Ends the load early, and the run goes on with what there is; ends the audit early, and there is none.
        Before the load, or a second time during it, the run is given up: `run` ends with CancelledError.
        """
        self._on_interrupt()

    async def run(self) -> Report:
        """Plays the plan. Raises Unreachable, Unusable."""
        task = asyncio.current_task()
        self._on_interrupt = task.cancel if task else self._on_interrupt
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        totals = Totals()
        channel = await reach(self._plan.target)
        try:
            await self._prepare(channel)
            findings = await self._load(totals)
            audit = await self._audit(channel, findings) if self._plan.audit else None
        finally:
            await channel.close()
            self._progress.close()
        return make_report(self._plan, totals, started_at=started_at, audit=audit, notes=self._notes)

    async def _prepare(self, channel: grpc.aio.Channel) -> None:
        plan, progress = self._plan, self._progress
        if plan.set_up and plan.mix.accounts:
            progress.stage(f"creating {plan.tenants + 1:,} accounts")
            try:
                await accounts.create(plan, plan.mix.accounts, channel, progress.counted)
            except CallFailed as failure:
                kind = Unreachable if failure.unknown else Unusable
                raise kind(f"accounts cannot be created: {failure}") from failure
        self._notes += await rehearse(plan, channel)

    async def _load(self, totals: Totals) -> Findings:
        plan, give_up = self._plan, self._on_interrupt
        self._progress.stage(f"connecting {plan.processes * plan.connections} times")
        with Crew(plan) as crew:
            await crew.ready()

            def stop() -> None:
                self._notes.append("Interrupted: the load was ended before its time.")
                self._on_interrupt = give_up
                crew.stop()

            self._on_interrupt = stop
            self._progress.stage(f"warming up for {plan.warm_up_s:g} s" if plan.warm_up_s else "loading")
            telling = asyncio.create_task(self._tell(totals))

            def ask_again(unresolved: int) -> None:
                if unresolved:
                    telling.cancel()
                    self._progress.stage(f"asking again about {unresolved:,} operations of unknown outcome")

            try:
                findings = await crew.run(totals, ask_again)
            finally:
                telling.cancel()
        self._remark(findings, totals)
        return findings

    async def _tell(self, totals: Totals) -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            self._progress.loaded(totals)

    async def _audit(self, channel: grpc.aio.Channel, findings: Findings) -> Audit | None:
        if findings.lost:
            return None
        self._progress.stage(f"auditing {len(findings.tallies):,} tenants")
        auditor = Auditor(self._plan, channel, findings.tallies, findings.unknown)
        auditing = asyncio.create_task(auditor.run(self._progress.counted))
        self._on_interrupt = auditing.cancel
        try:
            return await auditing
        except asyncio.CancelledError:
            self._notes.append("Interrupted: the audit was not finished.")
            return None

    def _remark(self, findings: Findings, totals: Totals) -> None:
        plan, pace = self._plan, self._plan.pace
        if findings.lost:
            text = f"{findings.lost} of {plan.processes} processes of the load ended early, and their books are lost."
            self._notes.append(text)
        if totals.busy > _BUSY:
            share = f"{totals.busy:.0%}"
            text = f"A process of the load took {share} of a core: it may have measured itself. Use more --processes."
            self._notes.append(text)
        if findings.unsent:
            self._notes.append(f"Never sent, since too much was in flight: {findings.unsent:,} arrivals that were due.")
        elapsed_s = totals.elapsed_s
        if isinstance(pace, Open) and elapsed_s and totals.counts.decisions / elapsed_s < _SHORT * pace.rate:
            rate = totals.counts.decisions / elapsed_s
            self._notes.append(f"{rate:,.0f} decisions per second were answered where {pace.rate:,.0f} were due.")
