"""A gateway as a client of Holdgate: one tenant over one connection."""

from typing import Final

from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import quota_service_pb2 as quota
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.decision_pb2 import OUTCOME_GRANTED, Decision, LimitStatus
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

PRICE: Final = 10
"""Credits that one piece of work costs."""


class Gateway:
    """Calls for `tenant` over `channel`; those that a server fails end with `grpc.aio.AioRpcError`."""

    def __init__(self, channel: aio.Channel, tenant: str = "acme") -> None:
        self.tenant = tenant
        self.quota = QuotaServiceStub(channel)
        self.operator = AdminServiceStub(channel)

    async def open_account(self, units: int) -> None:
        """Creates the account with so many credits."""
        account = admin.Account(plan="free")
        await self.operator.PutAccount(
            admin.PutAccountRequest(tenant=self.tenant, account=account, opening={"credits": units})
        )

    async def grant(self, grant_id: str, units: int) -> None:
        """Adds so many credits."""
        await self.operator.CreateGrant(
            admin.CreateGrantRequest(tenant=self.tenant, grant_id=grant_id, amounts={"credits": units})
        )

    async def reserve(self, request_id: str, action: str = "work", *, within_s: float | None = None) -> Decision:
        """Asks for one piece of paid work."""
        request = quota.CheckAndReserveRequest(
            tenant=self.tenant, request_id=request_id, action=action, amounts={"credits": PRICE}
        )
        return (await self.quota.CheckAndReserve(request, timeout=within_s)).decision

    async def take(self, request_id: str, action: str = "work") -> Decision:
        """Asks for one piece of paid work, which must be granted."""
        decision = await self.reserve(request_id, action)
        assert decision.outcome == OUTCOME_GRANTED, decision
        return decision

    async def poll(self, *, within_s: float | None = None) -> Decision:
        """Asks for something that only a window counts."""
        request = quota.CheckAndReserveRequest(tenant=self.tenant, action="poll")
        return (await self.quota.CheckAndReserve(request, timeout=within_s)).decision

    async def start_job(self, request_id: str) -> Decision:
        """Asks for one of two places."""
        request = quota.CheckAndReserveRequest(tenant=self.tenant, request_id=request_id, action="job")
        return (await self.quota.CheckAndReserve(request)).decision

    async def settle(self, hold_id: str, used: int) -> quota.SettleResponse:
        """Charges so many credits and ends the hold."""
        usage = quota.Usage(used={"credits": used})
        return await self.quota.Settle(quota.SettleRequest(tenant=self.tenant, hold_id=hold_id, usage=usage))

    async def release(self, hold_id: str) -> quota.ReleaseResponse:
        """Ends the hold, of which nothing was delivered."""
        return await self.quota.Release(quota.ReleaseRequest(tenant=self.tenant, hold_id=hold_id))

    async def extend(self, hold_id: str) -> Decision:
        """Renews the lease."""
        return (await self.quota.Extend(quota.ExtendRequest(tenant=self.tenant, hold_id=hold_id))).decision

    async def credits(self) -> LimitStatus:
        """The balance's figures."""
        usage = await self.quota.GetUsage(quota.GetUsageRequest(tenant=self.tenant))
        return next(limit for limit in usage.limits if limit.id == "credits")
