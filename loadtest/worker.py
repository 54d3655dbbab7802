"""One process of the load: connects, waits for the word, plays its part, and sends what it measured."""

import asyncio
import contextlib
import gc
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic, process_time
from typing import Final

import uvloop

from loadtest.callers import CALLERS
from loadtest.ledger import Tally
from loadtest.loops import Load
from loadtest.plan import LoadPlan
from loadtest.player import Player
from loadtest.recorder import Interval, Recorder
from loadtest.requests import Draw
from loadtest.resolve import resolve
from loadtest.target import Unreachable, reach

INTERVAL_S: Final = 1.0

_COLLECT: Final = (20_000, 50, 100)
"""Garbage collection, much rarer than by default: what the load allocates is freed by counting, and a collection
stops all callers for as long as it takes.
"""


@dataclass(frozen=True, slots=True)
class Ready:
    """Sent when the connections stand; `error` says why not, and is empty when they do."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Go:
    """Sent to the process: begin at this instant of `time.monotonic`."""

    start_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Sent to the process: ask nothing new."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Sent when the load has ended, before operations of unknown outcome are asked again."""

    unresolved: int


@dataclass(frozen=True, slots=True)
class Done:
    """The last word: books by tenant's number, tenant and id of outcomes that stay unknown, arrivals never sent, and
    the share of a core that the process took under load.
    """

    tallies: dict[int, list[Tally]]
    unknown: list[tuple[int, str]]
    unsent: int
    busy: float


Report = Ready | Interval | Ended | Done
"""What a process sends."""


def main(plan: LoadPlan, worker: int, link: Connection) -> None:
    """Runs process number `worker`; `link` leads to the conductor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conductor decides what an interrupt means
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    with contextlib.suppress(BrokenPipeError):  # the conductor is gone, and nobody wants the figures
        uvloop.run(_run(plan, worker, link))


async def _run(plan: LoadPlan, worker: int, link: Connection) -> None:
    try:
        channels = [await reach(plan.target) for _ in range(plan.connections)]
    except Unreachable as error:
        link.send(Ready(str(error)))
        return
    link.send(Ready())
    word = await asyncio.to_thread(_receive, link)
    if not isinstance(word, Go):
        return
    caller = CALLERS[plan.via](channels, plan.batch)
    recorder = Recorder(word.start_s + plan.warm_up_s)
    player = Player(plan, Draw(plan, worker), caller, recorder)
    load = Load(plan, worker, player, start_s=word.start_s)
    _stop_on_word(link, load)

    busy = 0.0

    def at_end() -> None:
        nonlocal busy
        recorder.until_s = monotonic()
        busy = (process_time() - before_s) / (recorder.until_s - word.start_s)
        player.stop()

    reporting = asyncio.create_task(_report(link, recorder))
    before_s = process_time()
    await load.run(at_end)
    reporting.cancel()
    link.send(recorder.cut(recorder.last_s))
    link.send(Ended(len(player.unresolved)))
    unknown = await resolve(plan, caller, player)
    ids = [(question.drawn.key[0], question.drawn.request.request_id) for question in unknown]
    link.send(Done(player.ledger.tallies(), ids, load.unsent, busy))
    for channel in channels:
        await channel.close()


def _stop_on_word(link: Connection, load: Load) -> None:
    """Has the load stopped by whatever comes next: the word to stop, or the conductor's end."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        _receive(link)
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(load.stop)

    threading.Thread(target=listen, daemon=True).start()


def _receive(link: Connection) -> Go | Stop:
    try:
        word: Go | Stop = link.recv()
    except EOFError:
        return Stop()
    return word


async def _report(link: Connection, recorder: Recorder) -> None:
    due_s = recorder.measure_from_s
    while True:
        due_s += INTERVAL_S
        await asyncio.sleep(due_s - monotonic())
        link.send(recorder.cut(monotonic()))
