"""Envoy's rate limit service: a decision as Envoy reads it."""

from collections.abc import Sequence
from time import perf_counter
from typing import Final

from google.protobuf.struct_pb2 import Struct
from grpc import aio
from proxies import envoy_ratelimit_v3_pb2 as rls
from proxies import envoy_ratelimit_v3_pb2_grpc

from server.domain.decision import Decision, LimitResult
from server.domain.errors import HoldNotFoundError, HoldStateError, InvalidRequestError, TotalDecreasedError
from server.domain.limits.base import Kind
from server.gate import QuotaGate
from server.logs import DecisionLog, log
from server.rpc.calls import answering
from server.rpc.proxies.deciding import decided
from server.rpc.proxies.descriptors import Op, Question, View, read
from server.rpc.proxies.headers import HeaderVersion, http_answer, ratelimit_headers

NAME: Final = rls.DESCRIPTOR.services_by_name["RateLimitService"].full_name
"""The service's full name."""

HOLD_HEADER: Final = "x-quota-hold"
"""Tells the upstream which hold its request has."""

MOST_UNITS: Final = 2**32 - 1
"""The largest figure that the protocol can say."""

_OK: Final = rls.RateLimitResponse.OK
_OVER_LIMIT: Final = rls.RateLimitResponse.OVER_LIMIT
_LIMIT: Final = rls.RateLimitResponse.RateLimit
_UNITS: Final = {1000: _LIMIT.SECOND, 60_000: _LIMIT.MINUTE, 3_600_000: _LIMIT.HOUR, 86_400_000: _LIMIT.DAY}


class EnvoyRateLimitService(envoy_ratelimit_v3_pb2_grpc.RateLimitServiceServicer):
    """Serves envoy.service.ratelimit.v3.RateLimitService."""

    name = NAME
    new_work = (f"/{NAME}/ShouldRateLimit",)

    def __init__(self, gate: QuotaGate, decisions: DecisionLog, store_timeout_s: float) -> None:
        self._gate = gate
        self._decisions = decisions
        self.store_timeout_s = store_timeout_s

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""
        envoy_ratelimit_v3_pb2_grpc.add_RateLimitServiceServicer_to_server(self, server)

    @answering
    async def ShouldRateLimit(self, request: rls.RateLimitRequest, within_s: float) -> rls.RateLimitResponse:
        """Decides, or ends a hold."""
        hits = hits_of(request)
        # What is looked at without being taken is one unit: an amount of 0 would never block.
        looks = set(hits) == {0}
        question = read(self._gate.policy(request.domain), request.descriptors, [1] * len(hits) if looks else hits)
        if question.op is not Op.TAKE or any(each.is_negative_hits for each in request.descriptors):
            await self._end(question, request, within_s)
            return allowed(len(hits))
        if 0 in hits and not looks:
            raise InvalidRequestError.of(
                "descriptors", "take something and only look; send these in calls of their own"
            )
        started_s = perf_counter()
        operation = question.operation(check_only=looks)
        decision = await decided(self._gate, operation, named=bool(operation.request_id), within_s=within_s)
        self._decisions.decided(operation, decision, started_s)
        return response(decision, question.views)

    async def _end(self, question: Question, request: rls.RateLimitRequest, within_s: float) -> None:
        """Settles or releases the hold that the descriptors name.

        Envoy ends streams that were refused too, and heeds no answer: what names no hold, or one that cannot be ended
        any more, is left as it is.
        """
        hold_id = question.hold_id or question.request_id
        if not hold_id:
            return
        try:
            if question.op is Op.RELEASE:
                await self._gate.release(question.ref, hold_id, within_s=within_s)
                return
            used = dict(question.amounts)
            if any(each.is_negative_hits for each in request.descriptors):
                used = await self._less(question, hold_id, within_s)
            await self._gate.settle(question.ref, hold_id, used or None, final=True, within_s=within_s)
        except (HoldNotFoundError, HoldStateError, TotalDecreasedError) as error:
            log.info("proxy.not_ended", policy=question.policy.name, hold_id=hold_id, error=error.message)

    async def _less(self, question: Question, hold_id: str, within_s: float) -> dict[str, int]:
        """What remains used of a hold when the question's units are given back: of what it recorded, never below 0."""
        hold = await self._gate.hold(question.ref, hold_id, within_s=within_s)
        return {
            meter: max((totals.reserved if totals.reported is None else totals.reported) - question.amounts[meter], 0)
            for meter, totals in hold.meters.items()
            if meter in question.amounts
        }


def hits_of(request: rls.RateLimitRequest) -> list[int]:
    """The units of each descriptor: its own, else the request's, else one."""
    return [
        each.hits_addend.value if each.HasField("hits_addend") else request.hits_addend or 1
        for each in request.descriptors
    ]


def allowed(count: int) -> rls.RateLimitResponse:
    """The answer to a call that is heeded by nobody."""
    status = rls.RateLimitResponse.DescriptorStatus(code=_OK)
    return rls.RateLimitResponse(overall_code=_OK, statuses=[status] * count)


def response(decision: Decision, views: Sequence[View]) -> rls.RateLimitResponse:
    """The decision as Envoy reads it, with a status for each descriptor."""
    answer = rls.RateLimitResponse(overall_code=_OK if decision.granted else _OVER_LIMIT)
    shares = shared_out(decision.results, views)
    for share in shares:
        fill_status(answer.statuses.add(), share, granted=decision.granted)
    _, headers, body = http_answer(decision)
    for name, value in {**ratelimit_headers(decision, HeaderVersion.DRAFT_10), **headers}.items():
        answer.response_headers_to_add.add(key=name, value=value)
    answer.raw_body = body
    if decision.lease:
        answer.request_headers_to_add.add(key=HOLD_HEADER, value=decision.lease.hold_id)
    _fill_metadata(answer.dynamic_metadata, decision)
    return answer


def shared_out(results: Sequence[LimitResult], views: Sequence[View]) -> list[list[LimitResult]]:
    """The limits of each descriptor: those kept by dimensions that it names, of its meter. One that is none's goes to
    the first descriptor, so that each blocker is told of.
    """
    shares: list[list[LimitResult]] = [[] for _ in views]
    for result in results:
        if result.limit.shadow:
            continue
        of = [
            index
            for index, view in enumerate(views)
            if view.scope.issuperset(result.limit.scope) and (not view.meter or view.meter == result.limit.meter)
        ]
        for index in of or [0]:
            shares[index].append(result)
    return shares


def fill_status(status: rls.RateLimitResponse.DescriptorStatus, share: Sequence[LimitResult], *, granted: bool) -> None:
    """What a descriptor is told: of the limit that blocks longest, else of the one with the least left."""
    over = not granted and any(result.blocking for result in share)
    status.code = _OVER_LIMIT if over else _OK
    # A limit that nothing was asked of is not what this request comes near.
    figured = [
        result
        for result in share
        if result.limit.kind is not Kind.GATE and (result.blocking if over else result.amount)
    ]
    if not figured:
        return
    tightest = min(figured, key=lambda result: (result.remaining, -result.look.wait_ms))
    status.current_limit.name = tightest.limit.id
    status.current_limit.requests_per_unit = min(tightest.look.cap, MOST_UNITS)
    status.current_limit.unit = _UNITS.get(getattr(tightest.limit, "window_ms", 0), _LIMIT.UNKNOWN)
    status.limit_remaining = 0 if over else min(tightest.remaining, MOST_UNITS)
    until_ms = tightest.look.wait_ms if over else tightest.look.reset_ms
    if until_ms >= 0 and not (over and tightest.hopeless):
        status.duration_until_reset.FromMilliseconds(until_ms)


def _fill_metadata(metadata: Struct, decision: Decision) -> None:
    """For access logs, later filters and the stream's end; Envoy's descriptors read texts only."""
    lease = decision.lease
    if lease:
        metadata["hold_id"] = lease.hold_id
        if lease.expires_in_ms is not None:
            metadata["expires_in_ms"] = str(lease.expires_in_ms)
    metadata["outcome"] = decision.outcome
    metadata["policy_version"] = decision.policy_version
    if decision.refusal:
        metadata["code"] = decision.refusal.code
    over = {result.limit.id: result.limit.shadow for result in decision.results if not result.look.fits}
    metadata.get_or_create_list("violated").extend([name for name, shadow in over.items() if not shadow])
    metadata.get_or_create_list("shadow").extend([name for name, shadow in over.items() if shadow])
    remaining = metadata.get_or_create_struct("remaining")
    for result in decision.results:
        if result.limit.kind is not Kind.GATE:
            remaining[result.limit.id] = str(result.remaining)
