"""The client for asyncio."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from grpc import aio
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from holdgate.answers import QuotaAway, Refused
from holdgate.asking import Ask, Posture, Tls
from holdgate.hold import Hold
from holdgate.retries import AWAY, Attempts, code_of

_log: Final = logging.getLogger("holdgate")

Response = TypeVar("Response")


class AsyncQuota:
    """One server, as `host:port`, and the policy to ask it about (empty where it has just one).

    A call is sent again, under the same id, until `within_s` seconds are over; one try waits `attempt_s`.
    """

    def __init__(  # noqa: PLR0913  # each has its default, and is named
        self,
        address: str,
        *,
        policy: str = "",
        tls: Tls | None = None,
        within_s: float = 2.0,
        attempt_s: float = 1.0,
        posture: Posture = Posture.CLOSED,
    ) -> None:
        self._channel = aio.secure_channel(address, tls.credentials()) if tls else aio.insecure_channel(address)
        self._stub = QuotaServiceStub(self._channel)
        self._policy = policy
        self._within_s = within_s
        self._attempt_s = attempt_s
        self._posture = posture

    async def __aenter__(self) -> Self:
        """The client itself; leaving the block closes its connection."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def reserve(self, ask: Ask) -> decided.Decision:
        """The decision, whatever it is. Raises QuotaAway where there is none, grpc.RpcError for a bad request."""
        return (await self._call(self._stub.CheckAndReserve, ask.message(self._policy), ask.wait_s)).decision

    @asynccontextmanager
    async def hold(self, ask: Ask) -> AsyncIterator[Hold]:
        """Runs the block with what was asked for: keeps the lease, settles what was used, releases on an exception.

        Raises Refused, and QuotaAway where the posture is closed.
        """
        hold = Hold(ask, await self._decided(ask))
        if not hold.hold_id:
            yield hold
            return
        keeper = asyncio.create_task(self._keep(hold))
        try:
            yield hold
        except BaseException:
            await self._ended(keeper)
            await self._let_go(hold)
            raise
        await self._ended(keeper)
        await self.settle(ask.tenant, hold.hold_id, hold.used)

    async def settle(
        self, tenant: str, hold_id: str, used: Mapping[str, int] | None = None, *, final: bool = True
    ) -> quota.SettleResponse:
        """Charges totals by meter; with none, everything as reserved. When final, the hold ends."""
        usage = quota.Usage(used=used) if used else None
        request = quota.SettleRequest(policy=self._policy, tenant=tenant, hold_id=hold_id, usage=usage, final=final)
        return await self._call(self._stub.Settle, request)

    async def release(self, tenant: str, hold_id: str) -> quota.ReleaseResponse:
        """Gives back what no report has charged, and ends the hold."""
        request = quota.ReleaseRequest(policy=self._policy, tenant=tenant, hold_id=hold_id)
        return await self._call(self._stub.Release, request)

    async def extend(self, tenant: str, hold_id: str, used: Mapping[str, int] | None = None) -> decided.Decision:
        """Renews the lease, and reports totals."""
        request = quota.ExtendRequest(policy=self._policy, tenant=tenant, hold_id=hold_id, used=used)
        return (await self._call(self._stub.Extend, request)).decision

    async def _decided(self, ask: Ask) -> decided.Decision | None:
        try:
            decision = await self.reserve(ask)
        except QuotaAway as error:
            if ask.wait_s and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                waiting = decided.Decision(outcome=decided.OUTCOME_QUEUED, hold_id=ask.request_id)
                await self._let_go(Hold(ask, waiting))
                raise Refused(waiting) from error
            if self._posture is Posture.CLOSED:
                raise
            _log.warning("the quota service is away: %s of %s goes ahead uncounted", ask.action, ask.tenant)
            return None
        if decision.outcome == decided.OUTCOME_GRANTED:
            return decision
        if decision.outcome == decided.OUTCOME_QUEUED:
            await self._let_go(Hold(ask, decision))
        raise Refused(decision)

    async def _keep(self, hold: Hold) -> None:
        """Renews the lease in time, until it is cancelled, or the server says that there is nothing to renew."""
        decision = hold.decision
        while decision is not None and decision.HasField("renew_after_ms"):
            await asyncio.sleep(decision.renew_after_ms / 1000)
            try:
                decision = await self.extend(hold.ask.tenant, hold.hold_id, hold.used)
            except QuotaAway as error:
                _log.warning("hold %s could not be renewed, and will be tried again: %s", hold.hold_id, error)
            except grpc.RpcError as error:
                _log.warning("hold %s is not renewed any more: %s", hold.hold_id, code_of(error).name)
                return

    async def _let_go(self, hold: Hold) -> None:
        """Releases after a failure; a release that fails in turn is left to the end of the lease."""
        try:
            if hold.used:
                await self.settle(hold.ask.tenant, hold.hold_id, hold.used, final=False)
            await asyncio.shield(self.release(hold.ask.tenant, hold.hold_id))
        except (QuotaAway, grpc.RpcError) as error:
            _log.warning("hold %s could not be released; it ends with its lease: %s", hold.hold_id, error)

    @staticmethod
    async def _ended(keeper: asyncio.Task[None]) -> None:
        keeper.cancel()
        await asyncio.wait({keeper})

    async def _call(self, method: Callable[..., Awaitable[Response]], request: object, wait_s: float = 0) -> Response:
        attempts = Attempts(self._within_s, self._attempt_s, wait_s)
        while True:
            try:
                return await method(request, timeout=attempts.timeout_s())
            except aio.AioRpcError as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    if error.code() in AWAY:
                        raise QuotaAway(error.code(), error.details() or "") from error
                    raise
            await asyncio.sleep(pause_s)
