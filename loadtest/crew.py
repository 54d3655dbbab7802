"""The processes of a run: started, sent off together, followed, stopped, and never left behind."""

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from time import monotonic
from types import TracebackType
from typing import Final, NamedTuple, Self

from loadtest import worker
from loadtest.ledger import Tally
from loadtest.plan import LoadPlan
from loadtest.recorder import Interval
from loadtest.target import Unreachable
from loadtest.totals import Totals

_HEAD_START_S: Final = 0.1
"""Between the word to begin and the beginning, so that all processes begin together."""

_FAREWELL_S: Final = 5.0


class _Member(NamedTuple):
    process: SpawnProcess
    link: Connection


@dataclass(slots=True)
class Findings:
    """What the processes brought home: books by tenant's number, the tenant of each operation of unknown outcome,
    arrivals never sent, and how many processes were lost with their books.
    """

    tallies: dict[int, list[Tally]] = field(default_factory=dict)
    unknown: list[int] = field(default_factory=list)
    unsent: int = 0
    lost: int = 0


class Crew:
    """A context in which the processes live."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._members: list[_Member] = []
        self._threads = ThreadPoolExecutor(plan.processes)

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        for number in range(self._plan.processes):
            link, theirs = spawn.Pipe()
            process = spawn.Process(target=worker.main, args=(self._plan, number, theirs), daemon=True)
            process.start()
            theirs.close()
            self._members.append(_Member(process, link))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._members:
            process.join(_FAREWELL_S if kind is None else 0)
            if process.is_alive():
                process.terminate()
                process.join(_FAREWELL_S)
        self._threads.shutdown()
        for _, link in self._members:
            link.close()

    async def ready(self) -> None:
        """Waits until all processes are connected; raises Unreachable."""
        for word in await asyncio.gather(*(self._word(number) for number in range(self._plan.processes))):
            error = word.error if isinstance(word, worker.Ready) else "a process of the load ended at its start"
            if error:
                raise Unreachable(error)

    async def run(self, totals: Totals, on_end: Callable[[int], None]) -> Findings:
        """Sends the processes off and adds up what they measure until each has had its last word. Calls `on_end` when
        one has ended its load, with the number of operations that it will ask about again.
        """
        self._tell(worker.Go(monotonic() + _HEAD_START_S))
        findings = Findings()
        following = [self._follow(number, totals, findings, on_end) for number in range(self._plan.processes)]
        await asyncio.gather(*following)
        return findings

    def stop(self) -> None:
        """Asks all processes to ask nothing new."""
        self._tell(worker.Stop())

    def _tell(self, word: worker.Go | worker.Stop) -> None:
        for _, link in self._members:
            try:
                link.send(word)
            except OSError:
                continue  # it has ended, as whoever follows it will see

    async def _follow(self, number: int, totals: Totals, findings: Findings, on_end: Callable[[int], None]) -> None:
        while True:
            match await self._word(number):
                case Interval() as interval:
                    totals.add(interval)
                case worker.Ended(unresolved):
                    on_end(unresolved)
                case worker.Done() as done:
                    for tenant, tallies in done.tallies.items():
                        findings.tallies.setdefault(tenant, []).extend(tallies)
                    findings.unknown.extend(tenant for tenant, _ in done.unknown)
                    findings.unsent += done.unsent
                    totals.busy = max(totals.busy, done.busy)
                    return
                case None:
                    findings.lost += 1
                    return

    async def _word(self, number: int) -> worker.Report | None:
        """What the process says next; None when it has ended."""
        loop = asyncio.get_running_loop()
        try:
            word: worker.Report = await loop.run_in_executor(self._threads, self._members[number].link.recv)
        except (EOFError, OSError):
            return None
        return word
