"""Asks for each kind of request once, taking nothing, before the load begins: a mix that does not fit the server's
policy should fail at once, and not a thousand times a second.
"""

from random import Random
from typing import Final

import grpc
from quota.v1 import decision_pb2
from quota.v1 import quota_service_pb2 as quota

from loadtest.callers import CallFailed
from loadtest.callers.unary import UnaryCaller
from loadtest.plan import LoadPlan
from loadtest.requests import request_of
from loadtest.target import Unreachable

_TIMEOUT_S: Final = 10.0


class Unusable(Exception):
    """The server cannot be asked what the plan asks; the message says why and what to do."""


async def rehearse(plan: LoadPlan, channel: grpc.aio.Channel) -> list[str]:
    """Returns a remark for each kind of request that even an untouched tenant is refused. Raises Unusable."""
    caller = UnaryCaller([channel])
    chance = Random(plan.seed)  # noqa: S311  # traffic, not secrets
    remarks = []
    for entry in plan.mix.entries:
        scope = {name: choices[0] for name, choices in entry.scope.items()}
        request = request_of(plan, entry, plan.probe, scope, chance)
        request.mode = quota.MODE_CHECK_ONLY
        try:
            decision = (await caller.reserve(request, _TIMEOUT_S)).decision
        except CallFailed as failure:
            if failure.unknown:
                raise Unreachable(f"{plan.target.address} does not decide: {failure}") from failure
            advice = "; --setup creates accounts" if failure.status is grpc.StatusCode.NOT_FOUND else ""
            raise Unusable(f"the server does not take {entry.action!r}: {failure}{advice}") from failure
        if decision.outcome == decision_pb2.OUTCOME_REFUSED:
            advice = "" if plan.set_up else " --setup creates accounts; their plan may allow it."
            remarks.append(f"Even an untouched tenant is refused {entry.action!r}: {decision.refusal.code}.{advice}")
    return remarks
