"""What stories are played on: the servicers in this process over memory or a real store, or a server over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from grpc import aio
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc, test_clock_service_pb2, test_clock_service_pb2_grpc

from server.administration import Administration
from server.bootstrap import running
from server.engine.base import Engine
from server.engine.client import StoreConnection
from server.engine.epoch import EPOCH_KEY
from server.engine.memory_engine import MemoryEngine
from server.engine.redis_engine import RedisEngine
from server.gate import QuotaGate
from server.logs import DecisionLog
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from server.rpc.admin_service import AdminService
from server.rpc.quota_service import QuotaService
from server.settings import Settings, Store
from tests.conftest import must_leave_nothing
from tests.scenario.answers import DETAILS_KEY, Fault, InProcessContext
from tests.scenario.calls import ADMIN, QUOTA, Verb
from tests.scenario.story import Story
from tests.stores import ROOT, RunningStore
from tests.tenants import Clock

TRANSPORTS: Final = ("grpcio", "asgi")
"""The server's transports; each plays every story."""

BACKENDS: Final = ("memory", "redis", *TRANSPORTS)

WITHIN_S: Final = 10.0
"""Time for one call: a busy machine must not make a story fail."""


class Backend(Protocol):
    """Takes calls on one of several connections, and keeps the time."""

    name: str
    files: "Files"
    clock: Clock
    store: RunningStore | None
    """The real store behind it, to look into."""

    async def call(self, verb: Verb, request: Message, connection: int = 0) -> Message:
        """The answer; raises Fault."""

    async def connect(self, connections: int) -> None:
        """Opens so many connections."""

    async def set_time(self, now_ms: int) -> None:
        """Moves the clock."""


@dataclass(frozen=True)
class Files:
    """A story's policy and knobs as files, which a server reads at its start and at every reload."""

    policy: Path
    settings: Path

    @classmethod
    def of(cls, story: Story, folder: Path) -> "Files":
        policy = ROOT / "policies" / f"{story.policy}.yaml"
        if "\n" in story.policy:
            policy = folder / Path(story.where.partition(":")[0]).name
            policy.write_text(story.policy)
        files = cls(policy, folder / "settings")
        files.set_knobs(story.knobs)
        return files

    def set_knobs(self, knobs: Mapping[str, str]) -> None:
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in knobs.items()))


@dataclass
class InProcess:
    """The servicers of this process; on a real store each connection is a server of its own beside the others."""

    name: str
    files: Files
    store: RunningStore | None
    open_engine: Callable[[Clock], Awaitable[Engine]]
    policies: PolicyStore
    clock: Clock = field(default_factory=Clock)
    servers: list[Mapping[str, Any]] = field(default_factory=list)

    async def call(self, verb: Verb, request: Message, connection: int = 0) -> Message:
        await self.connect(connection + 1)
        method = getattr(self.servers[connection][verb.service], verb.method)
        answer: Message = await method(request, InProcessContext())
        return answer

    async def connect(self, connections: int) -> None:
        while len(self.servers) < connections:
            self.servers.append(self._server(await self.open_engine(self.clock)))

    async def set_time(self, now_ms: int) -> None:
        self.clock.now_ms = now_ms

    def _server(self, engine: Engine) -> Mapping[str, Any]:
        gate = QuotaGate(self.policies, engine)
        return {
            QUOTA: QuotaService(gate, DecisionLog(0), WITHIN_S),
            ADMIN: AdminService(Administration(self.policies, engine, gate), WITHIN_S),
        }


@dataclass
class OverGrpc:
    """A server on a loopback port, reached over channels that share no connection."""

    name: str
    files: Files
    store: RunningStore | None
    address: str
    stack: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    channels: list[aio.Channel] = field(default_factory=list)

    async def call(self, verb: Verb, request: Message, connection: int = 0) -> Message:
        stubs = {QUOTA: quota_service_pb2_grpc.QuotaServiceStub, ADMIN: admin_service_pb2_grpc.AdminServiceStub}
        await self.connect(connection + 1)
        stub = stubs[verb.service](self.channels[connection])
        try:
            answer: Message = await getattr(stub, verb.method)(request, timeout=WITHIN_S)
        except aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b"")
            raise Fault(error.code(), error.details() or "", bytes(details)) from error
        return answer

    async def connect(self, connections: int) -> None:
        while len(self.channels) < connections:
            # Channels to one address share a connection unless each has a pool of its own.
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = await self.stack.enter_async_context(aio.insecure_channel(self.address, options=options))
            await channel.channel_ready()
            self.channels.append(channel)

    async def set_time(self, now_ms: int) -> None:
        await self.connect(1)
        stub = test_clock_service_pb2_grpc.TestClockServiceStub(self.channels[0])
        await stub.SetTime(test_clock_service_pb2.SetTimeRequest(now_ms=now_ms), timeout=WITHIN_S)
        self.clock.now_ms = now_ms


@asynccontextmanager
async def backend(name: str, story: Story, store: RunningStore | None, folder: Path) -> AsyncIterator[Backend]:
    """One of BACKENDS, empty, with the story's policy; a real store must have nothing left of any hold at the end."""
    files = Files.of(story, folder)
    if store is None:
        policies = PolicyStore.load((files.policy,), KnobSource({}, files.settings))
        memory = MemoryEngine(clock := Clock(), refills=policies.refills, queues=policies.queues, looks=policies.looks)

        async def open_memory(_clock: Clock) -> Engine:
            return memory

        yield InProcess(name, files, None, open_memory, policies, clock)
        return
    store.command("FLUSHALL")
    opened = _server(name, files, store, folder) if name in TRANSPORTS else _servicers(name, files, store)
    async with opened as backend:
        yield backend
    store.command("DEL", EPOCH_KEY)
    connection = StoreConnection(store.url)
    await connection.connect()
    try:
        policies = PolicyStore.load((files.policy,), KnobSource({}, files.settings))
        engine = RedisEngine(
            connection, clock=backend.clock, refills=policies.refills, queues=policies.queues, looks=policies.looks
        )
        await must_leave_nothing(store, engine, backend.clock)
    finally:
        await connection.close()


@asynccontextmanager
async def _servicers(name: str, files: Files, store: RunningStore) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:

        async def open_engine(clock: Clock) -> Engine:
            connection = StoreConnection(store.url)
            stack.push_async_callback(connection.close)
            await connection.connect()
            return RedisEngine(
                connection, clock=clock, refills=policies.refills, queues=policies.queues, looks=policies.looks
            )

        policies = PolicyStore.load((files.policy,), KnobSource({}, files.settings))
        yield InProcess(name, files, store, open_engine, policies)


@asynccontextmanager
async def _server(name: str, files: Files, store: RunningStore, folder: Path) -> AsyncIterator[Backend]:
    chosen: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "transport": name,
        "policies": (files.policy,),
        "settings_file": files.settings,
        "store": Store.REDIS,
        "redis_url": store.url,
        "data_dir": folder / "data",
        "store_timeout_ms": round(WITHIN_S * 1000),
        "drain_seconds": 0,
        "test_clock": True,
    }
    async with running(Settings(**chosen)) as app, AsyncExitStack() as stack:
        yield OverGrpc(name, files, store, app.address, stack)
