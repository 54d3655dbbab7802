"""A server with the golden policy, and callers of it as proxies call."""

from collections.abc import AsyncIterator

import pytest
from grpc import aio
from proxies.envoy_ratelimit_v3_pb2_grpc import RateLimitServiceStub
from quota.v1 import admin_service_pb2 as admin
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.settings import from_flags
from tests.stores import ROOT

POLICY = ROOT / "clients" / "golden" / "policy.yaml"


@pytest.fixture
async def channel() -> AsyncIterator[aio.Channel]:
    """To a server where the organization acme has 100 credits on the plan free."""
    settings = from_flags({"listen": "127.0.0.1:0", "policies": (POLICY,), "store": "memory", "drain_seconds": 0})
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        account = admin.Account(plan="free")
        await AdminServiceStub(channel).PutAccount(admin.PutAccountRequest(tenant="acme", account=account))
        yield channel


@pytest.fixture
def envoy(channel: aio.Channel) -> RateLimitServiceStub:
    return RateLimitServiceStub(channel)


@pytest.fixture
def quota(channel: aio.Channel) -> QuotaServiceStub:
    return QuotaServiceStub(channel)
