"""How operations travel to a server: a call each, in batches, on a stream. Each sees that its answers are right."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from quota.v1 import admin_service_pb2 as admin
from quota.v1 import decision_pb2
from quota.v1 import quota_service_pb2 as quota

from benchmarks.http2 import Connection
from benchmarks.standard import PLAN, POLICY, TAKEN, Ask, WrongAnswer
from benchmarks.traffic import Stream, unary

RESERVE: Final = b"/quota.v1.QuotaService/CheckAndReserve"
SETTLE: Final = b"/quota.v1.QuotaService/Settle"
_BATCH: Final = b"/quota.v1.QuotaService/Batch"
_STREAM: Final = b"/quota.v1.QuotaService/Stream"
PUT_ACCOUNT: Final = b"/quota.v1.AdminService/PutAccount"

IN_FLIGHT: Final = 50
"""Unary calls under way, over all connections."""
BATCH: Final = 32
"""Operations of a batch; one batch is under way on each connection."""
STREAMED: Final = 32
"""Operations under way on a stream."""


class Way(Protocol):
    """Takes operations to the server. Both raise WrongAnswer when one is not granted, or not settled."""

    async def reserve(self, asks: Sequence[Ask]) -> None:
        """Asks for each."""

    async def settle(self, asks: Sequence[Ask]) -> None:
        """Settles each."""


class Unary:
    """A call for each operation."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    async def reserve(self, asks: Sequence[Ask]) -> None:
        """Asks for each."""
        messages = [ask.reserve().SerializeToString() for ask in asks]
        for answer in await unary(self._connections, RESERVE, messages, IN_FLIGHT):
            must_be_granted(quota.CheckAndReserveResponse.FromString(answer))

    async def settle(self, asks: Sequence[Ask]) -> None:
        """Settles each."""
        messages = [ask.settle().SerializeToString() for ask in asks]
        for answer in await unary(self._connections, SETTLE, messages, IN_FLIGHT):
            must_be_settled(quota.SettleResponse.FromString(answer))


class Batches:
    """32 operations in a message."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    async def reserve(self, asks: Sequence[Ask]) -> None:
        """Asks for each."""
        _must_all_be_right(await self._play([quota.Operation(check_and_reserve=ask.reserve()) for ask in asks]))

    async def settle(self, asks: Sequence[Ask]) -> None:
        """Settles each."""
        _must_all_be_right(await self._play([quota.Operation(settle=ask.settle()) for ask in asks]))

    async def _play(self, operations: Sequence[quota.Operation]) -> list[quota.OperationResult]:
        batches = [operations[start : start + BATCH] for start in range(0, len(operations), BATCH)]
        messages = [quota.BatchRequest(operations=batch).SerializeToString() for batch in batches]
        answers = await unary(self._connections, _BATCH, messages, len(self._connections))
        return [result for answer in answers for result in quota.BatchResponse.FromString(answer).results]


class Streamed:
    """One long-lived stream, as a sidecar keeps it."""

    def __init__(self, connection: Connection) -> None:
        self._stream = Stream(connection, _STREAM)

    async def reserve(self, asks: Sequence[Ask]) -> None:
        """Asks for each."""
        _must_all_be_right(await self._play([quota.Operation(check_and_reserve=ask.reserve()) for ask in asks]))

    async def settle(self, asks: Sequence[Ask]) -> None:
        """Settles each."""
        _must_all_be_right(await self._play([quota.Operation(settle=ask.settle()) for ask in asks]))

    async def _play(self, operations: Sequence[quota.Operation]) -> list[quota.OperationResult]:
        requests = (quota.StreamRequest(sequence=place, operation=one) for place, one in enumerate(operations))
        answers = await self._stream.play([request.SerializeToString() for request in requests], STREAMED)
        return [quota.StreamResponse.FromString(answer).result for answer in answers]


async def create(connections: Sequence[Connection], tenants: Iterable[str]) -> None:
    """An account with its opening balance for each."""
    account = admin.Account(plan=PLAN)
    requests = (admin.PutAccountRequest(policy=POLICY, tenant=tenant, account=account) for tenant in tenants)
    await unary(connections, PUT_ACCOUNT, [request.SerializeToString() for request in requests], IN_FLIGHT)


async def reply_bytes(connections: Sequence[Connection], ask: Ask) -> int:
    """How long the answer to this request is, which is asked and settled."""
    (answer,) = await unary(connections, RESERVE, [ask.reserve().SerializeToString()], 1)
    must_be_granted(quota.CheckAndReserveResponse.FromString(answer))
    await Unary(connections).settle([ask])
    return len(answer)


def must_be_granted(response: quota.CheckAndReserveResponse) -> None:
    """Raises WrongAnswer unless all five limits granted the request, for the first time."""
    decision = response.decision
    if decision.outcome != decision_pb2.OUTCOME_GRANTED or decision.replayed or len(decision.limits) != len(TAKEN):
        raise WrongAnswer(f"not granted by {len(TAKEN)} limits: {decision}")


def must_be_settled(response: quota.SettleResponse) -> None:
    """Raises WrongAnswer unless the call ended the hold."""
    if response.state != quota.HOLD_STATE_SETTLED or not response.applied:
        raise WrongAnswer(f"not settled: {response}")


def _must_all_be_right(results: Iterable[quota.OperationResult]) -> None:
    for result in results:
        match result.WhichOneof("result"):
            case "check_and_reserve":
                must_be_granted(result.check_and_reserve)
            case "settle":
                must_be_settled(result.settle)
            case _:
                raise WrongAnswer(f"neither granted nor settled: {result}")
