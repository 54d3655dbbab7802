"""A server of this process with its usage page, and tenants that use things."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

import pytest
from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc
from quota.v1 import quota_service_pb2 as quota

from server.bootstrap import App, running
from server.settings import Settings, from_flags
from tests.page.chromium import Browser, browser
from tests.rpc.conftest import set_time
from tests.scenario.quantities import epoch_ms

POLICY: Final = Path(__file__).with_name("policy.yaml")
TENTH_DAY_MS: Final = epoch_ms("2026-04-11T00:00:00Z")
WITHIN_S: Final = 20.0


class Answer(NamedTuple):
    """What the page's server answered."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Console:
    """The page, and the gateway behind its figures."""

    app: App
    channel: aio.Channel

    def url(self, tenant: str = "o1", path: str = "/", **scope: str) -> str:
        asked = {"policy": "console", "tenant": tenant, **{f"scope.{name}": value for name, value in scope.items()}}
        return f"http://{self.app.page_address}{path}?{urlencode(asked)}"

    async def get(self, target: str, *, method: str = "GET", host: str = "") -> Answer:
        """One request, past every browser."""

        def ask() -> Answer:
            connection = HTTPConnection(self.app.page_address, timeout=WITHIN_S)
            connection.request(method, target, headers={"host": host or self.app.page_address})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, headers, response.read().decode())
            connection.close()
            return answer

        return await asyncio.to_thread(ask)

    async def take(self, action: str, hold_id: str, tenant: str = "o1", project: str = "p1", **amounts: int) -> None:
        stub = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        scope = {"project": project} if action == "compute" else {}
        ask = quota.CheckAndReserveRequest(
            tenant=tenant, request_id=hold_id, action=action, scope=scope, amounts=amounts
        )
        await stub.CheckAndReserve(ask, timeout=WITHIN_S)

    async def use(self, units: int, hold_id: str = "h1", tenant: str = "o1") -> None:
        """Compute is taken and settled."""
        await self.take("compute", hold_id, tenant, cu=units)
        stub = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        await stub.Settle(quota.SettleRequest(tenant=tenant, hold_id=hold_id), timeout=WITHIN_S)

    async def spend(self, units: int, tenant: str = "o1") -> None:
        """Credits are taken and settled."""
        hold_id = f"spend-{units}"
        await self.take("buy", hold_id, tenant, credits=units)
        stub = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        await stub.Settle(quota.SettleRequest(tenant=tenant, hold_id=hold_id), timeout=WITHIN_S)

    async def release(self, hold_id: str, tenant: str = "o1") -> None:
        stub = quota_service_pb2_grpc.QuotaServiceStub(self.channel)
        await stub.Release(quota.ReleaseRequest(tenant=tenant, hold_id=hold_id), timeout=WITHIN_S)

    async def open_account(self, tenant: str) -> None:
        put = admin.PutAccountRequest(tenant=tenant, account=admin.Account(plan="free"))
        await admin_service_pb2_grpc.AdminServiceStub(self.channel).PutAccount(put, timeout=WITHIN_S)


@pytest.fixture
def page_settings(tmp_path: Path) -> Settings:
    flags = {
        "listen": "127.0.0.1:0",
        "page_address": "127.0.0.1:0",
        "policies": str(POLICY),
        "store": "memory",
        "data_dir": str(tmp_path),
        "drain_seconds": "0",
        "test_clock": True,
    }
    return from_flags(flags)


@pytest.fixture
async def console(page_settings: Settings) -> AsyncIterator[Console]:
    """On the tenth day of April, at midnight."""
    async with running(page_settings) as app, aio.insecure_channel(app.address) as channel:
        await set_time(channel, TENTH_DAY_MS)
        yield Console(app, channel)


@pytest.fixture(scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened
