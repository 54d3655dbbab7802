"""Servers of this process whose tenants cross thresholds, over each transport, on memory and on a real store."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc
from quota.v1 import quota_service_pb2 as quota

from server.bootstrap import App, running
from server.settings import Settings
from tests.stores import RunningStore

POLICY: Final = Path(__file__).with_name("policy.yaml")
WITHIN_S: Final = 20.0

Watch: TypeAlias = aio.UnaryStreamCall[admin.WatchNotificationsRequest, admin.WatchNotificationsResponse]


@dataclass
class Server:
    """A server, and what a gateway and a console do with it."""

    address: str
    channel: aio.Channel
    app: App
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def stop(self) -> None:
        """Drains it, as the end of its context does."""
        await self.app.drain(0)

    @property
    def operator(self) -> admin_service_pb2_grpc.AdminServiceStub:
        return admin_service_pb2_grpc.AdminServiceStub(self.channel)

    async def use(self, frames: int, tenant: str = "o1", **scope: str) -> None:
        """Frames are submitted and settled."""
        stub = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        hold_id = f"{self.address}-{next(self._numbers)}"
        action = "submit" if scope else "sketch"
        ask = quota.CheckAndReserveRequest(
            tenant=tenant, request_id=hold_id, action=action, scope=scope, amounts={"frames": frames}
        )
        await stub.CheckAndReserve(ask, timeout=WITHIN_S)
        await stub.Settle(quota.SettleRequest(tenant=tenant, hold_id=hold_id), timeout=WITHIN_S)

    def watch(self, tenant: str = "o1", after_id: str = "", **options: Any) -> Watch:  # noqa: ANN401  # the call's own
        ask = admin.WatchNotificationsRequest(tenant=tenant, after_id=after_id)
        watch: Watch = self.operator.WatchNotifications(ask, **options)
        return watch

    async def listed(self, tenant: str = "o1") -> list[admin.Notification]:
        ask = admin.ListNotificationsRequest(tenant=tenant, page_size=1000)
        return list((await self.operator.ListNotifications(ask, timeout=WITHIN_S)).notifications)


async def seen(watch: Watch, count: int) -> list[admin.Notification]:
    """The next so many of a watch."""
    found: list[admin.Notification] = []
    while len(found) < count:
        answer = await watch.read()
        assert isinstance(answer, admin.WatchNotificationsResponse), f"the watch ended after {found}"
        found.append(answer.notification)
    return found


def percents(notifications: list[admin.Notification]) -> list[int]:
    return [notification.percent for notification in notifications]


OpenServer: TypeAlias = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def open_server(tmp_path: Path) -> OpenServer:
    """Opens servers, each with an address of its own, on memory or on a real store or its URL."""

    @asynccontextmanager
    async def open_one(on: RunningStore | str | None = None, **changes: Any) -> AsyncIterator[Server]:  # noqa: ANN401  # as the setting
        url = on.url if isinstance(on, RunningStore) else on
        where = {"store": "redis", "redis_url": url} if url else {"store": "memory"}
        settings = Settings(
            **{
                "listen": "127.0.0.1:0",
                "policies": (POLICY,),
                "data_dir": tmp_path,
                "drain_seconds": 0,
                "store_timeout_ms": 10_000,  # a busy machine is no reason to fail
                **where,
                **changes,
            }
        )
        async with AsyncExitStack() as stack:
            app = await stack.enter_async_context(running(settings))
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = await stack.enter_async_context(aio.insecure_channel(app.address, options))
            yield Server(app.address, channel, app)

    return open_one


@pytest.fixture(params=["memory-grpcio", "memory-asgi", "valkey-grpcio", "valkey-asgi"])
async def server(request: pytest.FixtureRequest, open_server: OpenServer) -> AsyncIterator[Server]:
    name, _, transport = request.param.partition("-")
    store: RunningStore | None = None
    if name != "memory":
        store = request.getfixturevalue(name)
        assert store is not None
        store.command("FLUSHALL")
    async with open_server(store, transport=transport) as opened:
        yield opened
