"""The gRPC server at one address: services, health, reflection, and how it goes down without losing a call."""

from collections.abc import Sequence
from typing import Final, Protocol

from google.protobuf import descriptor_pool
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from server.rpc.admin_service import AdminService
from server.rpc.health import Health
from server.rpc.transports.base import Transport

GRACE_S: Final = 5.0
"""How long calls in work may still take once the server has stopped taking new ones."""


class Service(Protocol):
    """A service of the server's own, or of a protocol that proxies speak."""

    @property
    def new_work(self) -> Sequence[str]:
        """Paths of its methods that ask for a decision: what a busy server turns away. It never does so with what ends
        work and makes room, and not with health.
        """

    @property
    def name(self) -> str:
        """Its full name."""

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""


class RpcServer:
    """Serves `services` over `transport`, with their health and reflection."""

    def __init__(self, transport: Transport, services: Sequence[Service]) -> None:
        self._transport = transport
        self._health = Health()
        self._services = tuple(services)
        self._names = [service.name for service in services]
        server = self._transport.server
        for service in services:
            service.add_to(server)
        self.new_work: Final = tuple(path for service in services for path in service.new_work)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflections = reflection.aio.ReflectionServicer(names)
        add = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add(reflections, server)  # type: ignore[no-untyped-call]  # the package's stubs leave it out

    async def start(self) -> str:
        """Begins to serve, with health NOT_SERVING; the address. Raises ListenError."""
        await self.set_serving(serving=False)
        return await self._transport.start()

    async def set_serving(self, *, serving: bool) -> None:
        """Tells health what every service, and the server as a whole, may be expected to do."""
        for name in (health.OVERALL_HEALTH, *self._names):
            await self.set_health(name, serving=serving)

    async def set_health(self, name: str, *, serving: bool) -> None:
        """Tells health of one part."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def renew(self) -> None:
        """Takes new connections with the certificate that the TLS files have now."""
        await self._transport.renew()

    async def stop_advertising(self) -> None:
        """Turns health to NOT_SERVING for good, while calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Takes no more calls and lets those in work finish."""
        self._health.end_watches()
        for service in self._services:
            if isinstance(service, AdminService):
                service.end_watches()
        await self._transport.stop(GRACE_S)


def methods_of(services: Sequence[Service]) -> frozenset[str]:
    """All their methods, by full name, and those of reflection."""
    names = [*(service.name for service in services), reflection.SERVICE_NAME]
    found = map(descriptor_pool.Default().FindServiceByName, names)
    return frozenset(f"{service.full_name}/{method.name}" for service in found for method in service.methods)
