"""Proxies before a pool with a queue: a request that nobody can ask for again must not stand in line."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from proxies import kuadrant_ratelimit_v1_pb2 as kuadrant

from server.domain.limits.base import QueueLook
from server.domain.operation import Operation, TenantRef
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.logs import DecisionLog
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from server.rpc.proxies.authorize import Authorize
from server.rpc.proxies.envoy import EnvoyRateLimitService
from server.rpc.proxies.limitador import LimitadorRateLimitService
from tests.proxies.asking import asked, described
from tests.scenario.answers import InProcessContext
from tests.tenants import WITHIN_S, Clock

ACME: Final = TenantRef("lab", "acme")
PLACES: Final = 5


@pytest.fixture
async def gate() -> QuotaGate:
    """One whose tenant has no place left."""
    policies = PolicyStore.load((Path(__file__).with_name("policy.yaml"),), KnobSource())
    engine = MemoryEngine(Clock(), refills=policies.refills, queues=policies.queues, looks=policies.looks)
    gate = QuotaGate(policies, engine)
    for number in range(PLACES):
        job = Operation(ref=ACME, action="job", request_id=f"job-{number}")
        assert (await gate.check_and_reserve(job, within_s=WITHIN_S)).granted
    return gate


async def envoy(gate: QuotaGate, request_id: str) -> None:
    entries = {"org": "acme", "action": "job"} | ({"q.request_id": request_id} if request_id else {})
    service = EnvoyRateLimitService(gate, DecisionLog(0), WITHIN_S)
    await service.ShouldRateLimit(asked(described(entries), domain="lab"), InProcessContext())


async def limitador(gate: QuotaGate, request_id: str) -> None:
    entries = {"org": "acme", "action": "job", "meter": "credits"}
    entries |= {"q.request_id": request_id} if request_id else {}
    request = kuadrant.ReserveRequest(domain="lab", descriptors=[described(entries)], amount=0)
    answer = await LimitadorRateLimitService(gate, WITHIN_S).Reserve(request, InProcessContext())
    assert answer.reservation_id == ""


async def authorize(gate: QuotaGate, request_id: str) -> None:
    headers = {"x-quota-tenant": "acme", "x-quota-action": "job", "x-quota-request-id": request_id}
    scope: dict[str, Any] = {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    sent: list[Any] = []

    async def send(event: Any) -> None:  # noqa: ANN401  # as ASGI has it
        sent.append(event)

    await Authorize(gate, WITHIN_S)(scope, None, send)
    assert sent[0]["status"] == 403


async def queued(gate: QuotaGate) -> int:
    looks = [result.look for result in (await gate.usage(ACME, {}, within_s=WITHIN_S)).results]
    return next(look.queued for look in looks if isinstance(look, QueueLook))


@pytest.mark.parametrize("ask", [envoy, limitador, authorize])
@pytest.mark.parametrize(("request_id", "waiting"), [("", 0), ("r-1", 1)])
async def test_who_names_no_id_leaves_the_queue_at_once(
    gate: QuotaGate, ask: Callable[[QuotaGate, str], Awaitable[None]], request_id: str, waiting: int
) -> None:
    await ask(gate, request_id)
    assert await queued(gate) == waiting
