"""A server of this process on a free loopback port, with the memory engine, and clients of it."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc, test_clock_service_pb2_grpc
from quota.v1 import test_clock_service_pb2 as clock

from server import settings
from server.bootstrap import App, running
from server.settings import Settings

POLICY: Final = Path(__file__).with_name("policy.yaml")
NOON_MS: Final = 1_790_000_000_000
"""The time at which every server of these tests begins."""

MakeSettings: TypeAlias = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(settings.ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings for a server that starts on any free port and stops at once."""

    def make(**changes: Any) -> Settings:  # noqa: ANN401  # whatever the setting holds
        return Settings(
            **{
                "listen": "127.0.0.1:0",
                "policies": (POLICY,),
                "store": "memory",
                "data_dir": tmp_path,
                "drain_seconds": 0,
                "test_clock": True,
                **changes,
            }
        )

    return make


@pytest.fixture
async def app(make_settings: MakeSettings) -> AsyncIterator[App]:
    async with running(make_settings()) as app:
        async with aio.insecure_channel(app.address) as channel:
            await set_time(channel, NOON_MS)
        yield app


@pytest.fixture
async def channel(app: App) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(app.address) as channel:
        yield channel


@pytest.fixture
def quota(channel: aio.Channel) -> quota_service_pb2_grpc.QuotaServiceStub:
    return quota_service_pb2_grpc.QuotaServiceStub(channel)


@pytest.fixture
def operator(channel: aio.Channel) -> admin_service_pb2_grpc.AdminServiceStub:
    return admin_service_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture
async def tenant(operator: admin_service_pb2_grpc.AdminServiceStub) -> str:
    """A tenant on the plan free, with 100 credits."""
    await operator.PutAccount(admin.PutAccountRequest(tenant="acme", account=admin.Account(plan="free")))
    return "acme"


async def set_time(channel: aio.Channel, now_ms: int) -> None:
    """Moves the clock of the server at the other end."""
    await test_clock_service_pb2_grpc.TestClockServiceStub(channel).SetTime(clock.SetTimeRequest(now_ms=now_ms))
