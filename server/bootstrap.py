"""Puts a server together and takes it apart again: the only place that knows which engine is behind the gate."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from server.access import entry
from server.administration import Administration
from server.domain.errors import PolicyRejectedError
from server.engine.base import Engine
from server.engine.client import StoreConnection
from server.engine.counted_memory import CountedMemoryEngine
from server.engine.embedded import EmbeddedStore
from server.engine.epoch import EpochGuard, memory_path
from server.engine.fallback_engine import FallbackEngine
from server.engine.guarded_store import GuardedStore
from server.engine.pipeline import StoreCall
from server.engine.store_address import StoreAddress
from server.engine.store_checks import check_store
from server.engine.store_errors import StoreError
from server.engine.turns import StoreTurns
from server.engine.wakes import StoreWakes
from server.front import Front
from server.front_gate import FrontGate
from server.gate import QuotaGate
from server.jobs import epoch_watch, store_pulse
from server.jobs import vitals as vitals_job
from server.jobs.epoch_watch import EpochWatch
from server.jobs.periodic import Periodic
from server.jobs.policy_reload import reload_policies
from server.jobs.reaper import Reaper
from server.jobs.store_clock import StoreClock
from server.jobs.store_pulse import StorePulse
from server.jobs.threshold_walk import ThresholdWalk
from server.jobs.vitals import Census, Signs, Vitals
from server.jobs.webhook.delivery import Webhook
from server.jobs.webhook.endpoint import Endpoint
from server.jobs.webhook.message import read_secrets
from server.logs import log
from server.metrics.book import Book, book_of
from server.metrics.metrics import Metrics
from server.metrics.scrape import listener
from server.page.app import PageApp
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from server.rpc.load import Load
from server.rpc.transports import renewal
from server.rpc.transports.base import ListenError
from server.rpc.transports.renewal import Renewal
from server.settings import Settings, Store, is_loopback
from server.tracing.opened import Tracing, TracingError, opened_tracing
from server.waiting import RENEW_EVERY_S, Waiting

READINESS_INTERVAL_S: Final = 0.2
"""How soon health follows the store."""

BOOKING_INTERVAL_S: Final = 0.2
"""How soon grants that were made without the store are booked once it is back."""

SWEEPER: Final = "holdgate.sweeper"
"""Health by this name tells whether overdue holds of idle tenants are swept up in time."""

POLICY: Final = "holdgate.policy"
"""Health by this name tells whether the policies in force are those of the files."""

_NS_PER_MS: Final = 1_000_000


class StartError(Exception):
    """The server cannot start; the message says what is wrong, where, and what to do, a line for each fault."""


class Clock:
    """Milliseconds since the epoch from `source`, until a test sets the time."""

    def __init__(self, source: Callable[[], int]) -> None:
        self._source = source
        self._set_ms: int | None = None

    def __call__(self) -> int:
        """The time; from a store's clock it is 0, and the store reads its own."""
        return self._source() if self._set_ms is None else self._set_ms

    def set_ms(self, now_ms: int) -> None:
        """Stops the clock at this time."""
        self._set_ms = now_ms


@dataclass(frozen=True, slots=True)
class OpenStore:
    """An engine with what stands behind it.

    `name` is for people; `ready` whether decisions can be made now; `why_untrusted` as `QuotaGate` wants it.
    `without` tells whether decisions are made without the store, and how many of these it has not heard of yet.
    """

    name: str
    engine: Engine
    clock: Clock
    ready: Callable[[], bool]
    why_untrusted: Callable[[], str]
    without: Callable[[], tuple[bool, int]] = lambda: (False, 0)


@dataclass(frozen=True, slots=True)
class App:
    """A server that answers calls at `addresses`, which have the ports that were taken: that of all, that of operators.

    Where operators have none of their own, there is one alone.
    """

    addresses: Sequence[str]
    store: str
    policies: PolicyStore
    page_address: str
    metrics: Metrics
    metrics_address: str
    _front: Front
    _waiting: Waiting
    _hurry: asyncio.Event

    @property
    def address(self) -> str:
        """Where callers are answered."""
        return self.addresses[0]

    def describe(self) -> str:
        """One line for whoever started it."""
        policies = ", ".join(f"{name} {self.policies.get(name).version}" for name in self.policies.names)
        page = f"; page: http://{self.page_address}/" if self.page_address else ""
        admin = f"; admin: {self.addresses[1]}" if self.addresses[1:] else ""
        metrics = f"; metrics: {self.metrics_address}" if self.metrics_address else ""
        return f"holdgate serves on {self.address}{page}; store: {self.store}; policies: {policies}{admin}{metrics}"

    async def drain(self, lameduck_s: float) -> None:
        """Says NOT_SERVING, answers calls for another `lameduck_s` seconds, then only those already in work."""
        self.metrics.draining.set(1)
        await self._front.stop_advertising()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), lameduck_s)
        self._waiting.close()
        await self._front.stop()


@asynccontextmanager
async def running(
    settings: Settings, hurry: asyncio.Event | None = None, book: Path | None = None
) -> AsyncIterator[App]:
    """A server from its first listening to its last answer; leaving the block drains it.

    `hurry`, once set, cuts the drain short. `book` is where a worker's metrics are kept, for its parent to show.
    Raises StartError.
    """
    policies = load_policies(settings)
    async with AsyncExitStack() as stack:
        metrics_address = ""
        if book is None:
            books, metrics_address = await stack.enter_async_context(shown_metrics(settings.metrics_address))
            book = books and book_of(books, 0)
        metrics = Metrics(Book(book))
        with told_at_start():
            tracing = await stack.enter_async_context(opened_tracing(settings.otlp_endpoint, settings.trace_rate))
        store = await stack.enter_async_context(open_store(settings, policies, metrics, tracing))
        permit = entry.permit if settings.callers else entry.permit_all
        gate = FrontGate(policies, store.engine, trusted=store.why_untrusted, permit=permit, metrics=metrics)
        await stack.enter_async_context(Periodic("waiting calls", gate.waiting.renew, RENEW_EVERY_S))
        reaper = await stack.enter_async_context(Reaper(store.engine, settings.sweep_interval_s))
        await stack.enter_async_context(ThresholdWalk(store.engine, policies))
        vitals = Vitals(metrics, policies)
        load = await stack.enter_async_context(Load(metrics))
        gate.waiting.aside = load.aside
        administration = Administration(policies, store.engine, gate)
        with told_at_start():
            front = Front(settings, gate, administration, metrics, store.clock.set_ms, outermost=tracing.layers)
            front.bound(load)
            addresses = await front.start()
        if front.callers is not None:
            policies.beside = front.callers.reload

        async def show_health() -> None:
            store_up, keeps_up = store.ready(), reaper.keeps_up
            await front.show_health(serving=store_up, parts={SWEEPER: keeps_up, POLICY: not policies.rejected})
            vitals.show(Signs(store_up, *store.without(), keeps_up, front.in_flight))

        await stack.enter_async_context(Periodic("readiness", show_health, READINESS_INTERVAL_S))
        if front.tls is not None:
            look = Renewal(front.tls, front.renew).look
            await stack.enter_async_context(Periodic("certificate", look, renewal.INTERVAL_S))
        if book is not None and book == book_of(book.parent, 0):
            census = Census(metrics, store.engine)
            await stack.enter_async_context(Periodic("census", census.take, vitals_job.CENSUS_INTERVAL_S))
        if settings.webhook_secret_file is not None:
            keys = webhook_secrets(settings.webhook_secret_file)
            webhook = Webhook(Endpoint(settings.webhook_url), keys, store.engine, policies)
            await stack.enter_async_context(webhook)
        page_address = ""
        if settings.page_address:
            # Who may see the page, its address tells: it shows no caller.
            plain = QuotaGate(policies, store.engine, trusted=store.why_untrusted)
            seen = Administration(policies, store.engine, plain)
            page_address = await stack.enter_async_context(served_page(settings, plain, seen, policies))
        over = hurry or asyncio.Event()
        app = App(addresses, store.name, policies, page_address, metrics, metrics_address, front, gate.waiting, over)
        stack.push_async_callback(app.drain, settings.drain_seconds)
        yield app


@asynccontextmanager
async def served_page(
    settings: Settings, gate: QuotaGate, administration: Administration, policies: PolicyStore
) -> AsyncIterator[str]:
    """The usage page on its address, which has the port that was taken."""
    try:
        from server.page.listener import PageListener  # noqa: PLC0415  # h2corn's wheel may be missing
    except ImportError as error:
        raise StartError(f"--page-address needs h2corn, which cannot be imported: {error}") from error
    where, loopback = settings.page_address, is_loopback(settings.page_address)
    if not loopback:
        log.warning("page.open_to_all", address=where, note="whoever reaches this address sees every tenant's usage")
    page = PageApp(gate, administration, lambda: policies.names, within_s=settings.store_timeout_s, loopback=loopback)
    async with AsyncExitStack() as stack:
        try:
            listener = await stack.enter_async_context(PageListener(page, where, reuse_port=settings.workers > 1))
        except OSError as error:
            raise StartError(f"--page-address: cannot listen on {where}: is the port in use?") from error
        yield listener.address


def webhook_secrets(path: Path) -> Sequence[bytes]:
    """The secrets of a file; raises StartError naming the line that is none."""
    try:
        return read_secrets(path)
    except ValueError as error:
        raise StartError(f"--webhook-secret-file: {error}") from error


@contextmanager
def told_at_start() -> Iterator[None]:
    """Turns what keeps the server from being put together into a StartError."""
    try:
        yield
    except (ListenError, TracingError) as error:
        raise StartError(str(error)) from error
    except PolicyRejectedError as error:
        raise StartError(error.message) from error


def load_policies(settings: Settings) -> PolicyStore:
    """The policies that the settings name; raises StartError with file and line of each fault."""
    try:
        return PolicyStore.load(settings.policies, KnobSource(os.environ, settings.settings_file))
    except PolicyRejectedError as error:
        missing = not all(map(os.path.exists, settings.policies))
        raise StartError(error.message + "\n--policies or HOLDGATE_POLICIES names others" * missing) from error


@asynccontextmanager
async def shown_metrics(address: str) -> AsyncIterator[tuple[Path | None, str]]:
    """Where processes keep what they count, and the address where it is shown; nowhere without an address.

    Raises StartError.
    """
    if not address:
        yield None, ""
        return
    with TemporaryDirectory(prefix="holdgate-metrics-") as folder:
        async with AsyncExitStack() as stack:
            try:
                taken = await stack.enter_async_context(listener(Path(folder), address))
            except OSError as error:
                raise StartError(f"cannot show metrics on {address}: {error}") from error
            yield Path(folder), taken


@asynccontextmanager
async def open_store(
    settings: Settings, policies: PolicyStore, metrics: Metrics, tracing: Tracing
) -> AsyncIterator[OpenStore]:
    """The store that the settings choose. One that cannot be reached is kept being tried; see `ready`."""
    match settings.store_kind:
        case Store.MEMORY:
            clock = Clock(lambda: time.time_ns() // _NS_PER_MS)
            engine = CountedMemoryEngine(
                clock,
                metrics,
                refills=policies.refills,
                queues=policies.queues,
                most_cells=settings.max_cells,
                looks=policies.looks,
            )
            yield OpenStore("memory, gone at exit", engine, clock, ready=lambda: True, why_untrusted=lambda: "")
        case Store.REDIS:
            async with _connected(settings, settings.redis_url, policies, metrics, tracing) as store:
                yield store
        case _:
            async with embedded_store(settings) as url, _connected(settings, url, policies, metrics, tracing) as store:
                yield replace(store, name=f"embedded, in {settings.data_dir}")


@asynccontextmanager
async def embedded_store(settings: Settings) -> AsyncIterator[str]:
    """A store of the server's own; its URL."""
    try:
        embedded = EmbeddedStore(settings.data_dir, fsync=settings.fsync.value)
        url = await embedded.start()
    except (StoreError, OSError) as error:
        raise StartError(f"the embedded store cannot start: {error}") from error
    try:
        yield url
    finally:
        await embedded.stop()


@asynccontextmanager
async def _connected(
    settings: Settings, url: str, policies: PolicyStore, metrics: Metrics, tracing: Tracing
) -> AsyncIterator[OpenStore]:
    address = parse_address(url)
    watch = EpochWatch(memory_path(settings.data_dir, address))

    async def check(call: StoreCall) -> None:
        for note in (await check_store(call, str(address))).notes:
            log.warning("store.note", note=note)

    connection = tracing.connection(url, on_connect=(check, watch.on_connect))
    clock = Clock(lambda: 0)
    wakes, turns = StoreWakes(url), StoreTurns(url)
    pulse = StorePulse(lambda within_s: connection.call("TIME", timeout_s=within_s), StoreClock(metrics))
    guarded = GuardedStore(connection)
    engine = FallbackEngine(
        guarded,
        share=settings.outage_share,
        clock=clock,
        refills=policies.refills,
        looks=policies.looks,
        queues=policies.queues,
        most_cells=settings.max_cells,
        wakes=wakes,
        turns=turns,
        metrics=metrics,
    )
    name = str(address)
    try:
        await connection.connect()
    except StoreError as error:
        name = f"{address}, which is not usable yet ({error})"
    try:
        async with (
            Periodic("epoch", watch.verify, epoch_watch.INTERVAL_S),
            Periodic("pulse", pulse.feel, store_pulse.INTERVAL_S),
            Periodic("booking", engine.book, BOOKING_INTERVAL_S),
        ):
            yield OpenStore(
                name,
                engine,
                clock,
                ready=lambda: connection.connected and pulse.beats and not watch.why_untrusted(),
                why_untrusted=watch.why_untrusted,
                without=lambda: (guarded.is_open, engine.unbooked),
            )
    finally:
        await wakes.close()
        await turns.close()
        await engine.close()


def parse_address(url: str) -> StoreAddress:
    """Where the store is; raises StartError naming what is wrong with the URL."""
    try:
        return StoreAddress.parse(url)
    except ValueError as error:
        raise StartError(f"--redis-url or HOLDGATE_REDIS_URL: {error}") from error


async def adopt_store(settings: Settings) -> str:
    """Accepts the store as it is, after it was emptied, restored or exchanged; what was done, for people.

    Servers that knew the old store trust this one a few seconds later. Raises StartError.
    """
    if settings.store_kind is Store.MEMORY:
        raise StartError("a memory store is never lost and found: there is nothing to adopt")
    if settings.store_kind is Store.EMBEDDED and not settings.data_dir.exists():
        raise StartError(f"{settings.data_dir}: there is no such folder, and so no store to adopt; see --data-dir")
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if settings.store_kind is Store.EMBEDDED:
            url = await stack.enter_async_context(embedded_store(settings))
        address = parse_address(url)
        connection = StoreConnection(url)
        stack.push_async_callback(connection.close)
        try:
            await connection.connect()
            state = await EpochGuard(connection.call, memory_path(settings.data_dir, address)).adopt()
        except StoreError as error:
            raise StartError(str(error)) from error
        return f"adopted the store at {address}: its epoch is {state.stored}"


def spare_collections() -> None:
    """Takes what was built so far out of the garbage collector's walks, and makes full walks rare.

    A decision leaves no cycles; a full collection over policies, stubs and cached accounts stops every call meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def serve(
    settings: Settings, announce: Callable[[str], object], *, lifeline: int | None = None, book: Path | None = None
) -> None:
    """Runs a server until SIGTERM or SIGINT; a second one cuts the drain short. SIGHUP reads the policies again.

    `announce` gets one line once the server answers calls. `lifeline` is a pipe's end that becomes readable when the
    process that started this one is gone, which is as good as a SIGTERM. `book` is as for `running`.
    """
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def stopped() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped)
    if lifeline is not None:

        def abandoned() -> None:
            loop.remove_reader(lifeline)
            stop.set()
            hurry.set()  # whoever starts in the parent's place wants the port

        loop.add_reader(lifeline, abandoned)
    async with running(settings, hurry, book) as app:
        loop.add_signal_handler(signal.SIGHUP, reload_policies, app.policies)
        announce(app.describe())
        spare_collections()
        await stop.wait()
        log.info("server.draining", seconds=settings.drain_seconds)
