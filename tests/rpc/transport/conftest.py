"""Each transport with the probe service on a free loopback port, and clients of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from server.rpc.load import Load
from server.rpc.transports.asgi.serve import AsgiTransport
from server.rpc.transports.base import Transport
from server.rpc.transports.grpcio import GrpcioTransport
from tests.rpc.transport.probe import SERVICE, Probe, ProbeStub, add_probe_to_server
from tests.rpc.transport.raw import RawClient

TRANSPORTS: Final[dict[str, type[GrpcioTransport | AsgiTransport]]] = {"grpcio": GrpcioTransport, "asgi": AsgiTransport}


@dataclass(frozen=True)
class Served:
    """A transport that answers at `address`."""

    name: str
    transport: Transport
    address: str
    probe: Probe
    health: health.aio.HealthServicer


@asynccontextmanager
async def serving(
    name: str, listen: str = "127.0.0.1:0", *, reuse_port: bool = False, load: Load | None = None
) -> AsyncIterator[Served]:
    """A transport of this name, with the probe, health and reflection; `load` bounds the probe's calls that wait."""
    transport = TRANSPORTS[name](listen, reuse_port=reuse_port)
    probe = Probe()
    add_probe_to_server(probe, transport.server)
    healths = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, transport.server)
    reflections = reflection.aio.ReflectionServicer([SERVICE, health.SERVICE_NAME])
    add = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add(reflections, transport.server)  # type: ignore[no-untyped-call]  # the package's stubs leave it out
    if load is not None:
        transport.bound([f"/{SERVICE}/Wait"], load)
    address = await transport.start()
    try:
        yield Served(name, transport, address, probe, healths)
    finally:
        await transport.stop(0)


@pytest.fixture(params=TRANSPORTS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(request.param) as served:
        yield served


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[aio.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with aio.insecure_channel(served.address, options) as channel:
        yield channel


@pytest.fixture
def stub(channel: aio.Channel) -> ProbeStub:
    return ProbeStub(channel)


@pytest.fixture
async def raw(served: Served) -> AsyncIterator[RawClient]:
    async with RawClient.to(served.address) as client:
        yield client
