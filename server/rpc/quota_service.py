"""The data plane: each method turns its message into a domain value, asks the gate, and turns the answer back."""

from collections.abc import AsyncIterator
from functools import partial
from time import perf_counter
from typing import Final

from grpc import aio
from quota.v1 import quota_service_pb2, quota_service_pb2_grpc

from server import best_effort
from server.domain.operation import TenantRef
from server.gate import QuotaGate
from server.logs import DecisionLog
from server.rpc import convert, convert_usage, denials
from server.rpc.calls import CallContext, answering, as_written, filling, time_left_of_call
from server.rpc.operations import Operations

NAME: Final = quota_service_pb2.DESCRIPTOR.services_by_name["QuotaService"].full_name
"""The service's full name."""


class QuotaService(quota_service_pb2_grpc.QuotaServiceServicer):
    """Serves quota.v1.QuotaService; no call waits longer than `store_timeout_s` seconds for the store."""

    name = NAME
    new_work = tuple(
        f"/{NAME}/{method}" for method in ("CheckAndReserve", "Estimate", "GetUsage", "GetLimits", "Batch")
    )

    def __init__(self, gate: QuotaGate, decisions: DecisionLog, store_timeout_s: float) -> None:
        self._gate = gate
        self._decisions = decisions
        self.store_timeout_s = store_timeout_s
        self._operations = Operations(
            {
                "check_and_reserve": partial(as_written(QuotaService.CheckAndReserve), self),
                "settle": partial(as_written(QuotaService.Settle), self),
                "release": partial(as_written(QuotaService.Release), self),
                "extend": partial(as_written(QuotaService.Extend), self),
                "estimate": partial(as_written(QuotaService.Estimate), self),
                "release_allocation": partial(as_written(QuotaService.ReleaseAllocation), self),
            }
        )

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""
        quota_service_pb2_grpc.add_QuotaServiceServicer_to_server(self, server)

    @filling(quota_service_pb2.CheckAndReserveResponse, waits=True)
    async def CheckAndReserve(
        self,
        request: quota_service_pb2.CheckAndReserveRequest,
        response: quota_service_pb2.CheckAndReserveResponse,
        within_s: float,
    ) -> None:
        """Takes everything that was asked for, or nothing."""
        started_s = perf_counter()
        operation = convert.operation(request)
        if operation.flexible is not None:
            decision = await best_effort.check_and_reserve(self._gate, operation, within_s=within_s)
        elif request.wait:
            decision = await self._gate.wait_for_turn(operation, within_s=within_s, time_left=time_left_of_call())
        else:
            decision = await self._gate.check_and_reserve(operation, within_s=within_s)
        self._decisions.decided(operation, decision, started_s)
        if decision.refusal is not None and request.deny_as_status:
            raise denials.Denied(denials.status_of(decision, request.tenant))
        convert.fill_reserve(response, decision)

    @filling(quota_service_pb2.SettleResponse)
    async def Settle(
        self, request: quota_service_pb2.SettleRequest, response: quota_service_pb2.SettleResponse, within_s: float
    ) -> None:
        """Charges what was delivered; final unless the request says otherwise."""
        outcome = await self._gate.settle(
            TenantRef(request.policy, request.tenant),
            request.hold_id,
            convert.delivered(request),
            final=request.final if request.HasField("final") else True,
            within_s=within_s,
            scope=request.scope,
            allocation=request.allocation,
        )
        convert.fill_outcome(response, outcome)

    @filling(quota_service_pb2.ReleaseResponse)
    async def Release(
        self, request: quota_service_pb2.ReleaseRequest, response: quota_service_pb2.ReleaseResponse, within_s: float
    ) -> None:
        """Gives back what no report has charged."""
        ref = TenantRef(request.policy, request.tenant)
        convert.fill_outcome(response, await self._gate.release(ref, request.hold_id, within_s=within_s))

    @filling(quota_service_pb2.ReleaseAllocationResponse)
    async def ReleaseAllocation(
        self,
        request: quota_service_pb2.ReleaseAllocationRequest,
        response: quota_service_pb2.ReleaseAllocationResponse,
        within_s: float,
    ) -> None:
        """Gives back a standing allocation."""
        ref = TenantRef(request.policy, request.tenant)
        response.applied = await self._gate.release_allocation(
            ref, request.allocation, request.limit_id, within_s=within_s
        )

    @filling(quota_service_pb2.ExtendResponse)
    async def Extend(
        self, request: quota_service_pb2.ExtendRequest, response: quota_service_pb2.ExtendResponse, within_s: float
    ) -> None:
        """Renews the lease."""
        decision = await self._gate.extend(
            TenantRef(request.policy, request.tenant),
            request.hold_id,
            dict(request.used),
            dict(request.amounts),
            within_s=within_s,
            connection=request.connection,
        )
        convert.fill_decision(response.decision, decision)

    @filling(quota_service_pb2.EstimateResponse)
    async def Estimate(
        self, request: quota_service_pb2.EstimateRequest, response: quota_service_pb2.EstimateResponse, within_s: float
    ) -> None:
        """Prices an action, holding nothing."""
        decision, prices = await self._gate.estimate(convert.estimated_operation(request), within_s=within_s)
        response.items.extend(convert.item_prices(prices))
        convert.fill_decision(response.decision, decision)

    @answering
    async def GetUsage(
        self, request: quota_service_pb2.GetUsageRequest, within_s: float
    ) -> quota_service_pb2.GetUsageResponse:
        """The figures of the tenant's limits."""
        ref = TenantRef(request.policy, request.tenant)
        view = await self._gate.usage(ref, dict(request.scope), within_s=within_s)
        answer = quota_service_pb2.GetUsageResponse(
            policy_version=view.policy_version,
            unavailable=not view.available,
            banner=convert_usage.banner(view.banner),
        )
        convert.fill_limits(answer.limits, view.results)
        answer.quotas.extend(convert_usage.quota_usages(view.quotas))
        return answer

    @answering
    async def GetLimits(
        self, request: quota_service_pb2.GetLimitsRequest, within_s: float
    ) -> quota_service_pb2.GetLimitsResponse:
        """The limits as they stand for the tenant."""
        ref = TenantRef(request.policy, request.tenant)
        view = await self._gate.limits(ref, within_s=within_s)
        return quota_service_pb2.GetLimitsResponse(
            plan=view.plan,
            limits=[convert.effective_limit(limit) for limit in view.limits],
            prices=convert.product_prices(view.products),
            policy_version=view.policy_version,
            totals=view.totals,
        )

    @answering
    async def Batch(self, request: quota_service_pb2.BatchRequest, within_s: float) -> quota_service_pb2.BatchResponse:
        """Answers many operations, each as if it were alone."""
        response = quota_service_pb2.BatchResponse()
        await self._operations.batch(request.operations, response.results, within_s)
        return response

    async def Stream(
        self, request_iterator: AsyncIterator[quota_service_pb2.StreamRequest], _context: CallContext
    ) -> AsyncIterator[quota_service_pb2.StreamResponse]:
        """Answers operations as they come, each as if it were alone."""
        async for response in self._operations.stream(request_iterator, self.store_timeout_s):
            yield response
