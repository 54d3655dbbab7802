"""That the standard decision's limits are real: each of the five has room for one request and refuses a second."""

from collections.abc import Sequence
from pathlib import Path

from quota.v1 import admin_service_pb2 as admin
from quota.v1 import decision_pb2
from quota.v1 import quota_service_pb2 as quota

from benchmarks.http2 import Connection
from benchmarks.processes import holdgate, store
from benchmarks.standard import BALANCE, PLAN, POLICY, TAKEN, Asking, WrongAnswer
from benchmarks.traffic import connected, unary
from benchmarks.travel import PUT_ACCOUNT, RESERVE, must_be_granted


async def check(folder: Path) -> None:
    """Raises WrongAnswer naming a limit that does not refuse, or does not refuse alone."""
    with store(folder) as behind, holdgate(folder, behind) as server:
        async with connected(server.address, 1) as connections:
            for limit in TAKEN:
                await _check(connections, limit)


async def _check(connections: Sequence[Connection], limit: str) -> None:
    await unary(connections, PUT_ACCOUNT, [room_for_one(limit).SerializeToString()], 1)
    asks = Asking([limit]).take(2)
    granted, refused = await unary(connections, RESERVE, [ask.reserve().SerializeToString() for ask in asks], 1)
    must_be_granted(quota.CheckAndReserveResponse.FromString(granted))
    decision = quota.CheckAndReserveResponse.FromString(refused).decision
    blocking = [status.id for status in decision.limits if status.blocking]
    if decision.outcome != decision_pb2.OUTCOME_REFUSED or blocking != [limit]:
        raise WrongAnswer(f"a second request should be refused by {limit} alone: {decision}")


def room_for_one(limit: str) -> admin.PutAccountRequest:
    """An account, named like the limit, for which this one limit has room for exactly one request."""
    taken = TAKEN[limit]
    request = admin.PutAccountRequest(policy=POLICY, tenant=limit, account=admin.Account(plan=PLAN))
    if limit == BALANCE:
        request.opening[limit] = taken
    else:
        request.account.overrides.add(limit_id=limit, value=taken)
    return request
