"""The gRPC server as a whole: both services, health, reflection, and how it goes down without losing a call."""

from collections.abc import Sequence
from typing import Final, Protocol

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from quota.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    quota_service_pb2,
    quota_service_pb2_grpc,
    test_clock_service_pb2,
    test_clock_service_pb2_grpc,
)

from server.rpc.admin_service import AdminService
from server.rpc.health import Health
from server.rpc.quota_service import QuotaService
from server.rpc.test_clock_service import TestClockService
from server.rpc.transports.base import Transport

GRACE_S: Final = 5.0
"""How long calls in work may still take once the server has stopped taking new ones."""

QUOTA_SERVICE: Final = quota_service_pb2.DESCRIPTOR.services_by_name["QuotaService"].full_name
ADMIN_SERVICE: Final = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
TEST_CLOCK_SERVICE: Final = test_clock_service_pb2.DESCRIPTOR.services_by_name["TestClockService"].full_name


NEW_WORK: Final = tuple(
    f"/{QUOTA_SERVICE}/{method}" for method in ("CheckAndReserve", "Estimate", "GetUsage", "GetLimits", "Batch")
)
"""Calls that a busy server turns away. It never does so with what ends work and makes room, and not with health."""


class ProxyService(Protocol):
    """A protocol that proxies speak."""

    @property
    def new_work(self) -> Sequence[str]:
        """Paths of its methods that ask for a decision."""

    @property
    def name(self) -> str:
        """The full name of its service."""

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""


class RpcServer:
    """Serves over `transport`. `clock` is the service that sets the time, only ever given for tests."""

    def __init__(
        self,
        transport: Transport,
        quota: QuotaService,
        admin: AdminService,
        clock: TestClockService | None = None,
        proxies: Sequence[ProxyService] = (),
    ) -> None:
        self._transport = transport
        self._health = Health()
        self._admin = admin
        server = self._transport.server
        quota_service_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        self._names = [QUOTA_SERVICE, ADMIN_SERVICE]
        if clock is not None:
            test_clock_service_pb2_grpc.add_TestClockServiceServicer_to_server(clock, server)
            self._names.append(TEST_CLOCK_SERVICE)
        for proxy in proxies:
            proxy.add_to(server)
            self._names.append(proxy.name)
        self.new_work: Final = (*NEW_WORK, *(path for proxy in proxies for path in proxy.new_work))
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

    async def stop_advertising(self) -> None:
        """Turns health to NOT_SERVING for good, while calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Takes no more calls and lets those in work finish."""
        self._health.end_watches()
        self._admin.end_watches()
        await self._transport.stop(GRACE_S)
