"""What callers meet: the services, at the addresses where they are served, behind the door if there is one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from server.access.store import CallerStore
from server.administration import Administration
from server.gate import QuotaGate
from server.listeners import callers_of, tls_of, transport_of
from server.logs import DecisionLog
from server.metrics.metrics import Metrics
from server.rpc.acting import TellOfActs
from server.rpc.admin_service import AdminService
from server.rpc.counting import CountCalls
from server.rpc.entry import Door
from server.rpc.load import Load
from server.rpc.proxies import authorize
from server.rpc.proxies.envoy import EnvoyRateLimitService
from server.rpc.proxies.limitador import LimitadorRateLimitService
from server.rpc.quota_service import QuotaService
from server.rpc.registrar import Layer, LayeredTransport
from server.rpc.server import RpcServer, Service, methods_of
from server.rpc.test_clock_service import TestClockService
from server.settings import Settings


class Front:
    """Everything that is served. `set_time_ms` is for the service that sets the time, where tests have it; `outermost`
    are layers around all others.

    Making it raises ListenError, and PolicyRejectedError for a bad file of callers. `callers` are those who may come
    in; None where anybody may. `tls` are the files of the certificate, if there is one.
    """

    def __init__(  # noqa: PLR0913  # what it is put together from
        self,
        settings: Settings,
        gate: QuotaGate,
        administration: Administration,
        metrics: Metrics,
        set_time_ms: Callable[[int], None],
        *,
        outermost: Sequence[Layer] = (),
    ) -> None:
        within_s, decisions = settings.store_timeout_s, DecisionLog(settings.decision_log_rate)
        admin = AdminService(administration, within_s)
        services: list[Service] = [
            QuotaService(gate, decisions, within_s),
            EnvoyRateLimitService(gate, decisions, within_s),
            LimitadorRateLimitService(gate, within_s),
        ]
        if settings.test_clock:
            services.append(TestClockService(set_time_ms, within_s))
        self.tls = tls_of(settings)
        self.callers = callers_of(settings, methods_of([*services, admin]) | {authorize.PATH})
        self._calls = CountCalls(metrics)
        self._public = public = transport_of(settings, settings.listen)
        public.add_route(authorize.PATH, _authorize(gate, within_s, self.callers))
        layers: list[Layer] = [TellOfActs(), *([Door(self.callers)] if self.callers else []), self._calls, *outermost]
        if not settings.admin_address:
            services.append(admin)
        self._servers = [RpcServer(LayeredTransport(public, layers), services)]
        if settings.admin_address:
            private = transport_of(settings, settings.admin_address)
            self._servers.append(RpcServer(LayeredTransport(private, layers), [admin]))

    def bound(self, load: Load) -> None:
        """Takes calls that ask for a decision only while the load has room for them."""
        self._public.bound(self._servers[0].new_work, load)

    @property
    def in_flight(self) -> int:
        """Calls that are being answered."""
        return self._calls.in_flight

    async def start(self) -> list[str]:
        """Begins to serve, with health NOT_SERVING; the addresses, that for operators last. Raises ListenError."""
        return [await server.start() for server in self._servers]

    async def show_health(self, *, serving: bool, parts: Mapping[str, bool]) -> None:
        """Tells health what the services may be expected to do, and of parts by name whether they work."""
        for server in self._servers:
            await server.set_serving(serving=serving)
            for name, works in parts.items():
                await server.set_health(name, serving=works)

    async def renew(self) -> None:
        """Takes new connections with the certificate that the TLS files have now."""
        for server in self._servers:
            await server.renew()

    async def stop_advertising(self) -> None:
        """Turns health to NOT_SERVING for good, while calls are still taken."""
        for server in self._servers:
            await server.stop_advertising()

    async def stop(self) -> None:
        """Takes no more calls and lets those in work finish."""
        await asyncio.gather(*(server.stop() for server in self._servers))


def _authorize(gate: QuotaGate, within_s: float, callers: CallerStore | None) -> authorize.Authorize:
    if callers is None:
        return authorize.Authorize(gate, within_s)
    return authorize.Authorize(gate, within_s, partial(Door(callers).let_in_http, authorize.PATH))
