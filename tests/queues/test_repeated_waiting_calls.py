"""Open calls of one request at one server: a client that lost its connection asks again before the server knows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from server.domain.decision import Decision
from server.domain.errors import DeadlineError
from server.domain.operation import Operation, TenantRef
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.tenants import WITHIN_S, Clock
from tests.waiting import until

ACME: Final = TenantRef("lab", "acme")
JOBS: Final = tuple(f"job-{number}" for number in range(5))


@pytest.fixture
def gate() -> QuotaGate:
    """One whose tenant has no place left."""
    policies = PolicyStore.load((Path(__file__).with_name("policy.yaml"),), KnobSource())
    engine = MemoryEngine(Clock(), refills=policies.refills, queues=policies.queues, looks=policies.looks)
    return QuotaGate(policies, engine)


def asked(request_id: str) -> Operation:
    return Operation(ref=ACME, action="job", request_id=request_id)


async def filled(gate: QuotaGate) -> None:
    for job in JOBS:
        assert (await gate.check_and_reserve(asked(job), within_s=WITHIN_S)).granted


async def waiting(
    gate: QuotaGate, count: int, time_left: Callable[[], float | None] = lambda: None
) -> asyncio.Task[Decision]:
    """A call that waits, the `count`-th of the gate's."""
    call = asyncio.create_task(gate.wait_for_turn(asked("w-1"), within_s=WITHIN_S, time_left=time_left))
    await until(lambda: gate.waiting.count == count, what="the call to wait")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not call.done()
    return call


async def test_both_are_answered_with_the_one_place(gate: QuotaGate) -> None:
    await filled(gate)
    calls = [await waiting(gate, 1), await waiting(gate, 2)]
    await gate.release(ACME, JOBS[0], within_s=WITHIN_S)
    answers = await asyncio.wait_for(asyncio.gather(*calls), WITHIN_S)
    assert [(answer.granted, answer.lease and answer.lease.hold_id) for answer in answers] == [(True, "w-1")] * 2
    assert gate.waiting.count == 0


@pytest.mark.parametrize("first", [0, 1])
async def test_a_cancelled_one_leaves_the_other_its_place(gate: QuotaGate, first: int) -> None:
    await filled(gate)
    calls = [await waiting(gate, 1), await waiting(gate, 2)]
    calls[first].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[first]
    await gate.waiting.renew()
    other = calls[1 - first]
    if not other.done():
        await gate.release(ACME, JOBS[0], within_s=WITHIN_S)
    assert (await asyncio.wait_for(other, WITHIN_S)).granted


async def test_the_one_whose_time_is_over_says_so(gate: QuotaGate) -> None:
    await filled(gate)
    early = await waiting(gate, 1, lambda: 0.3)
    late = await waiting(gate, 2)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    with pytest.raises(DeadlineError):
        await early
