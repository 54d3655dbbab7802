"""Several server processes on one address: each with its own event loop and its own connection to the store.

The parent owns the embedded store and the port, and serves nothing itself. It starts the workers, starts a new one for
one that died, and passes SIGTERM, SIGINT and SIGHUP on. A worker whose parent is gone drains and ends.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import uvloop

from server import bootstrap, logs
from server.logs import log
from server.metrics.book import book_of
from server.rpc.transports.base import cannot_listen
from server.settings import Settings, Store

RESTART_PAUSE_S: Final = 1.0
"""Before a worker that died is replaced, so that one that cannot run does not spin."""

_SPAWN: Final = multiprocessing.get_context("spawn")  # grpc and event loops do not survive a fork


async def serve(settings: Settings, announce: Callable[[str], object]) -> None:
    """Runs `settings.workers` processes until SIGTERM or SIGINT. `announce` gets one line once all of them serve."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    crew: list[_Worker] = []

    def stopped(number: int) -> None:
        stop.set()
        for worker in crew:
            worker.signal(number)

    def hung_up() -> None:
        for worker in crew:
            worker.signal(signal.SIGHUP)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped, number)
    loop.add_signal_handler(signal.SIGHUP, hung_up)
    async with AsyncExitStack() as stack:
        listen = stack.enter_context(_held_port(settings.listen))
        shared: dict[str, object] = {"listen": listen, "metrics_address": ""}
        if settings.admin_address:
            shared["admin_address"] = stack.enter_context(_held_port(settings.admin_address))
        if settings.store_kind is Store.EMBEDDED:
            url = await stack.enter_async_context(bootstrap.embedded_store(settings))
            shared |= {"store": Store.REDIS, "redis_url": url}
        books, metrics_address = await stack.enter_async_context(bootstrap.shown_metrics(settings.metrics_address))
        told = settings.model_copy(update=shared)
        numbers = range(settings.workers)
        crew += [_Worker(told, book_of(books, number) if books else None) for number in numbers]
        lines = await asyncio.gather(*(worker.start() for worker in crew))
        metrics = f"; metrics: {metrics_address}" if metrics_address else ""
        announce(f"{lines[0]}{metrics}; workers: {len(crew)}")
        watches = [asyncio.create_task(worker.watch(stop)) for worker in crew]
        await asyncio.gather(*watches)


@contextmanager
def _held_port(listen: str) -> Iterator[str]:
    """The address with a port that stays ours while workers come and go."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as holder:
        if int(port):
            # Another server on the port is found before the workers quietly share it.
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last server may linger
                _bind(probe, host, int(port), listen)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(holder, host, int(port), listen)
        yield f"{host}:{holder.getsockname()[1]}"


def _bind(holder: socket.socket, host: str, port: int, listen: str) -> None:
    try:
        holder.bind((host.strip("[]"), port))
    except OSError as error:
        raise bootstrap.StartError(cannot_listen(listen, error.strerror)) from error


class _Worker:
    """One worker process, replaced when it dies; the one in its place goes on in its book of metrics."""

    def __init__(self, settings: Settings, book: Path | None) -> None:
        self._settings = settings
        self._book = book
        self._process: multiprocessing.process.BaseProcess | None = None
        self._lifeline: Connection | None = None

    async def start(self) -> str:
        """Starts the process; the line by which it says that it serves. Raises StartError with what it says if not."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_run, args=(self._settings, theirs, self._book))
        process.start()
        theirs.close()
        self._process, self._lifeline = process, ours
        try:
            serves, line = await asyncio.to_thread(ours.recv)
        except EOFError:
            raise bootstrap.StartError("a worker ended before it served; its log says why") from None
        if not serves:
            raise bootstrap.StartError(line)
        return str(line)

    async def watch(self, stop: asyncio.Event) -> None:
        """Waits for the process to end, and replaces it unless everything is to stop."""
        while True:
            process = self._process
            if process is not None:
                await _ended(process)
            if stop.is_set():
                return
            log.error("worker.died", exit_code=process.exitcode if process is not None else None)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RESTART_PAUSE_S)
            if stop.is_set():  # a process that is started after the signal would never hear of it
                return
            try:
                await self.start()
            except bootstrap.StartError as error:
                log.error("worker.not_started", error=str(error))

    def signal(self, number: int) -> None:
        """Sends the process a signal."""
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)


async def _ended(process: multiprocessing.process.BaseProcess) -> None:
    """Waits for a process to end; not in a thread, of which the loop's pool may have fewer than there are workers."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


def _run(settings: Settings, lifeline: Connection, book: Path | None) -> None:
    """A worker's whole life."""
    logs.configure(settings.log_level)
    try:
        uvloop.run(
            bootstrap.serve(settings, lambda line: lifeline.send((True, line)), lifeline=lifeline.fileno(), book=book)
        )
    except bootstrap.StartError as error:
        lifeline.send((False, str(error)))
