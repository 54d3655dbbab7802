"""A small quota server in memory with one window, one pool and one balance per tenant, that lies when told to."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Never, Protocol, cast

import grpc
from quota.v1 import admin_service_pb2, admin_service_pb2_grpc, decision_pb2, quota_service_pb2_grpc
from quota.v1 import quota_service_pb2 as quota

PLACES = 3
RATE = 10_000
OPENING = 500
LEASE_MS = 60_000


class Context(Protocol):
    """The part of a call's context that the fake uses."""

    def abort(self, code: grpc.StatusCode, details: str = ...) -> Coroutine[Any, Any, Never]:
        """Ends the call."""


class AbortedError(Exception):
    """One operation of many has failed."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.error = quota.OperationError(code=code.value[0], message=details)


class Alone:
    """The context of one operation among many."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> Never:
        raise AbortedError(code, details)


@dataclass
class Lies:
    """What the server gets wrong, or loses. `lost_answers` maps a method to how many of its first calls take effect
    and end with UNAVAILABLE all the same.
    """

    charged_too_much: int = 0
    held_too_much: int = 0
    places_leaked: int = 0
    settled_reply_off: int = 0
    opening_lost: int = 0
    replays_take_again: bool = False
    always_unavailable: bool = False
    refuses_mix: bool = False
    lost_answers: Counter[str] = field(default_factory=Counter)
    lease_ms: int = LEASE_MS


@dataclass
class Hold:
    credits: int
    ends_s: float
    state: quota.HoldState.ValueType = quota.HOLD_STATE_ACTIVE
    used: int = 0

    @property
    def live(self) -> bool:
        return self.state == quota.HOLD_STATE_ACTIVE and monotonic() < self.ends_s


@dataclass
class Tenant:
    credits: int = OPENING
    charged: int = 0
    requests: int = 0
    extra_held: int = 0
    extra_places: int = 0
    holds: dict[str, Hold] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(hold.credits for hold in self.holds.values() if hold.live) + self.extra_held

    @property
    def places(self) -> int:
        return sum(hold.live for hold in self.holds.values()) + self.extra_places

    @property
    def granted(self) -> int:
        return self.credits - self.charged


class FakeServer:
    """Action `work` takes credits, a request and a place. Other methods are not served."""

    def __init__(self, lies: Lies | None = None) -> None:
        self.lies = lies or Lies()
        self.tenants: defaultdict[str, Tenant] = defaultdict(Tenant)
        self.calls: Counter[str] = Counter()
        self._news = asyncio.Condition()

    def __getattr__(self, method: str) -> None:
        """No handler, for the methods that a fake has no use for."""

    async def CheckAndReserve(
        self, request: quota.CheckAndReserveRequest, context: Context
    ) -> quota.CheckAndReserveResponse:
        if self.lies.refuses_mix or request.action != "work":
            await self._count("CheckAndReserve")
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"action: the policy has no {request.action!r}")
        tenant = self.tenants[request.tenant]
        known = request.request_id in tenant.holds
        if request.mode != quota.MODE_CHECK_ONLY and (not known or self.lies.replays_take_again):
            credits_wanted = request.amounts["credits"]
            if tenant.granted - tenant.held < credits_wanted or tenant.places >= PLACES:
                await self._count("CheckAndReserve")
                return quota.CheckAndReserveResponse(decision=self._refusal(tenant))
            hold_id = f"{request.request_id}+" if known else request.request_id
            tenant.holds[hold_id] = Hold(credits_wanted, monotonic() + self.lies.lease_ms / 1000)
            tenant.requests += 1
            tenant.extra_held += self.lies.held_too_much
        await self._lose("CheckAndReserve", context)
        return quota.CheckAndReserveResponse(decision=self._grant(tenant, request, replayed=known))

    async def Settle(self, request: quota.SettleRequest, context: Context) -> quota.SettleResponse:
        tenant, hold = self._hold(request.tenant, request.hold_id)
        applied = hold.state == quota.HOLD_STATE_ACTIVE
        if applied:
            hold.state = quota.HOLD_STATE_SETTLED
            hold.used = hold.credits
            if request.HasField("fraction"):
                share = request.fraction
                hold.used = max(hold.credits * share.delivered // share.reserved, 1) if share.delivered else 0
            tenant.charged += hold.used + self.lies.charged_too_much
            tenant.extra_places += self.lies.places_leaked
        await self._lose("Settle", context)
        used = hold.used + self.lies.settled_reply_off
        return quota.SettleResponse(state=hold.state, applied=applied, meters=[self._outcome(hold, used)])

    async def Release(self, request: quota.ReleaseRequest, context: Context) -> quota.ReleaseResponse:
        _, hold = self._hold(request.tenant, request.hold_id)
        applied = hold.state == quota.HOLD_STATE_ACTIVE
        if applied:
            hold.state = quota.HOLD_STATE_RELEASED
        await self._lose("Release", context)
        return quota.ReleaseResponse(state=hold.state, applied=applied, meters=[self._outcome(hold, 0)])

    async def GetUsage(self, request: quota.GetUsageRequest, context: Context) -> quota.GetUsageResponse:
        await self._lose("GetUsage", context)
        return quota.GetUsageResponse(limits=self._limits(self.tenants[request.tenant]))

    async def Batch(self, request: quota.BatchRequest, context: Context) -> quota.BatchResponse:
        await self._lose("Batch", context)
        return quota.BatchResponse(results=[await self._result(operation) for operation in request.operations])

    async def Stream(
        self, requests: AsyncIterator[quota.StreamRequest], context: Context
    ) -> AsyncIterator[quota.StreamResponse]:
        await self._lose("Stream", context)
        async for request in requests:
            yield quota.StreamResponse(sequence=request.sequence, result=await self._result(request.operation))

    async def _result(self, operation: quota.Operation) -> quota.OperationResult:
        try:
            match operation.WhichOneof("operation"):
                case "settle":
                    return quota.OperationResult(settle=await self.Settle(operation.settle, Alone()))
                case "release":
                    return quota.OperationResult(release=await self.Release(operation.release, Alone()))
                case _:
                    granted = await self.CheckAndReserve(operation.check_and_reserve, Alone())
                    return quota.OperationResult(check_and_reserve=granted)
        except AbortedError as aborted:
            return quota.OperationResult(error=aborted.error)

    async def PutAccount(
        self, request: admin_service_pb2.PutAccountRequest, context: Context
    ) -> admin_service_pb2.PutAccountResponse:
        await self._lose("PutAccount", context)
        self.tenants[request.tenant].credits = request.opening["credits"] - self.lies.opening_lost
        return admin_service_pb2.PutAccountResponse(account=request.account)

    def _hold(self, tenant: str, hold_id: str) -> tuple[Tenant, Hold]:
        found = self.tenants[tenant]
        return found, found.holds[hold_id]

    async def called(self, method: str, times: int) -> None:
        """Returns when the method has been called so many times."""
        async with self._news:
            await self._news.wait_for(lambda: self.calls[method] >= times)

    async def _count(self, method: str) -> None:
        async with self._news:
            self.calls[method] += 1
            self._news.notify_all()

    async def _lose(self, method: str, context: Context) -> None:
        await self._count(method)
        if self.lies.always_unavailable or self.lies.lost_answers[method] > 0:
            self.lies.lost_answers[method] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")

    def _grant(self, tenant: Tenant, request: quota.CheckAndReserveRequest, *, replayed: bool) -> decision_pb2.Decision:
        hold = tenant.holds.get(request.request_id)
        left_ms = round((hold.ends_s - monotonic()) * 1000) if hold and hold.live else None
        return decision_pb2.Decision(
            outcome=decision_pb2.OUTCOME_GRANTED,
            hold_id=request.request_id,
            expires_in_ms=left_ms,
            replayed=replayed,
            limits=self._limits(tenant),
            amounts={"credits": request.amounts["credits"], "requests": 1},
        )

    def _refusal(self, tenant: Tenant) -> decision_pb2.Decision:
        code = "too_many_jobs" if tenant.places >= PLACES else "insufficient_credits"
        return decision_pb2.Decision(
            outcome=decision_pb2.OUTCOME_REFUSED,
            limits=self._limits(tenant),
            refusal=decision_pb2.Refusal(code=code),
        )

    def _limits(self, tenant: Tenant) -> list[decision_pb2.LimitStatus]:
        return [
            decision_pb2.LimitStatus(
                id="rpm",
                kind=decision_pb2.LIMIT_KIND_WINDOW,
                meter="requests",
                limit=RATE,
                used=tenant.requests,
            ),
            decision_pb2.LimitStatus(
                id="jobs",
                kind=decision_pb2.LIMIT_KIND_SLOTS,
                limit=PLACES,
                used=tenant.places,
                held=tenant.places,
            ),
            decision_pb2.LimitStatus(
                id="credits",
                kind=decision_pb2.LIMIT_KIND_BALANCE,
                meter="credits",
                limit=tenant.granted,
                used=tenant.held,
                held=tenant.held,
            ),
        ]

    @staticmethod
    def _outcome(hold: Hold, used: int) -> quota.MeterOutcome:
        return quota.MeterOutcome(meter="credits", reserved=hold.credits, used=used)


@asynccontextmanager
async def serving(fake: FakeServer) -> AsyncIterator[str]:
    """Serves the fake on a free port of loopback; gives its address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    data_plane = cast("quota_service_pb2_grpc.QuotaServiceServicer", fake)
    control_plane = cast("admin_service_pb2_grpc.AdminServiceServicer", fake)
    quota_service_pb2_grpc.add_QuotaServiceServicer_to_server(data_plane, server)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(control_plane, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
