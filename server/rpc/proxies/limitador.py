"""Limitador's protocol: check and report apart from each other, or reserve and commit."""

import secrets
from typing import Final

from grpc import aio
from proxies import envoy_ratelimit_v3_pb2 as rls
from proxies import kuadrant_ratelimit_v1_pb2 as kuadrant
from proxies import kuadrant_ratelimit_v1_pb2_grpc

from server.domain.errors import HoldNotFoundError, HoldStateError
from server.domain.hold import State
from server.gate import QuotaGate
from server.rpc.calls import answering
from server.rpc.proxies.deciding import decided
from server.rpc.proxies.descriptors import Question, read
from server.rpc.proxies.envoy import allowed, hits_of, response

NAME: Final = kuadrant.DESCRIPTOR.services_by_name["RateLimitService"].full_name
"""The service's full name."""

_OK: Final = rls.RateLimitResponse.OK
_OVER_LIMIT: Final = rls.RateLimitResponse.OVER_LIMIT


class LimitadorRateLimitService(kuadrant_ratelimit_v1_pb2_grpc.RateLimitServiceServicer):
    """Serves kuadrant.service.ratelimit.v1.RateLimitService."""

    name = NAME
    new_work = (f"/{NAME}/CheckRateLimit", f"/{NAME}/Reserve")

    def __init__(self, gate: QuotaGate, store_timeout_s: float) -> None:
        self._gate = gate
        self.store_timeout_s = store_timeout_s

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""
        kuadrant_ratelimit_v1_pb2_grpc.add_RateLimitServiceServicer_to_server(self, server)

    @answering
    async def CheckRateLimit(self, request: rls.RateLimitRequest, within_s: float) -> rls.RateLimitResponse:
        """Whether one more would be within the limits."""
        # What is looked at is at least one unit: an amount of 0 would never block.
        hits = [max(units, 1) for units in hits_of(request)]
        question = read(self._gate.policy(request.domain), request.descriptors, hits)
        decision = await self._gate.check_and_reserve(question.operation(check_only=True), within_s=within_s)
        return response(decision, question.views)

    @answering
    async def Report(self, request: rls.RateLimitRequest, within_s: float) -> rls.RateLimitResponse:
        """Charges what was used, whatever the limits say."""
        question = read(self._gate.policy(request.domain), request.descriptors, hits_of(request), settled=True)
        await self._record(question, within_s)
        return allowed(len(request.descriptors))

    @answering
    async def Reserve(self, request: kuadrant.ReserveRequest, within_s: float) -> kuadrant.ReserveResponse:
        """Takes the amount of the descriptors' meter."""
        question = self._about(request, request.amount)
        named, question.request_id = bool(question.request_id), question.request_id or secrets.token_hex(16)
        decision = await decided(self._gate, question.operation(), named=named, within_s=within_s)
        if not decision.granted:
            return kuadrant.ReserveResponse(code=_OVER_LIMIT)
        return kuadrant.ReserveResponse(code=_OK, reservation_id=decision.lease.hold_id if decision.lease else "")

    @answering
    async def Commit(self, request: kuadrant.CommitRequest, within_s: float) -> kuadrant.CommitResponse:
        """Charges what was used; a reservation that is gone is charged all the same."""
        question = self._about(request, request.actual_amount)
        if not request.reservation_id:
            await self._record(question, within_s)
            return kuadrant.CommitResponse()
        try:
            if request.actual_amount:
                used = question.amounts or None
                outcome = await self._gate.settle(
                    question.ref, request.reservation_id, used, final=True, within_s=within_s
                )
            else:
                outcome = await self._gate.release(question.ref, request.reservation_id, within_s=within_s)
        except HoldNotFoundError:
            question.request_id = request.reservation_id  # a commit that is sent again finds what this one charged
            await self._record(question, within_s)
            return kuadrant.CommitResponse()
        except HoldStateError:
            return kuadrant.CommitResponse()
        return kuadrant.CommitResponse(reservation_released=outcome.state in {State.SETTLED, State.RELEASED})

    def _about(self, request: kuadrant.ReserveRequest | kuadrant.CommitRequest, units: int) -> Question:
        hits = [units] * len(request.descriptors)
        return read(self._gate.policy(request.domain), request.descriptors, hits, settled=True)

    async def _record(self, question: Question, within_s: float) -> None:
        """Books usage without a reservation: a hold of nothing, settled for what was used.

        Meters that count requests by themselves are not settled: they are taken, as far as their limits allow.
        """
        counted = {name: 0 for name, meter in question.policy.meters.items() if meter.per_request}
        used = {name: units for name, units in question.amounts.items() if name not in counted}
        requests = {name: units for name, units in question.amounts.items() if name in counted}
        question.request_id = question.request_id or secrets.token_hex(16)
        for taken in (requests, {}):
            # What is said to be 0 blocks nowhere, and is not counted by itself either.
            question.amounts = counted | dict.fromkeys(used, 0) | taken
            decision = await self._gate.check_and_reserve(question.operation(), within_s=within_s)
            if decision.granted:
                break
        if used and decision.granted and decision.lease:
            await self._gate.settle(question.ref, decision.lease.hold_id, used, final=True, within_s=within_s)
