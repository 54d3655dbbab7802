"""What `holdgate holds` and `holdgate release` do: a tenant's open holds, and the end of one on an operator's word."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
from quota.v1 import admin_service_pb2, quota_service_pb2
from rich.console import Console

from server.ledger_commands import OK, PAGE, unary
from server.reaching import Target, complain, warn

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def holds(target: Target, policy: str, tenant: str) -> int:
    """Prints the tenant's open holds, the earliest lease end first; 1 when the server fails."""
    none = True
    with target.channel() as channel:
        try:
            for hold in _open_holds(channel, policy, tenant):
                none = False
                _say(_line(hold))
        except grpc.RpcError as error:
            return complain(target, error)
    if none:
        warn(f"{tenant} has no open holds")
    return OK


def release(target: Target, policy: str, tenant: str, hold_id: str, reason: str) -> int:
    """Ends a hold and gives back what no report has charged; 1 when there is none, or the server fails."""
    request = admin_service_pb2.ForceReleaseRequest(policy=policy, tenant=tenant, hold_id=hold_id, reason=reason)
    with target.channel() as channel:
        try:
            answer = unary(channel, "ForceRelease", request, admin_service_pb2.ForceReleaseResponse)
        except grpc.RpcError as error:
            return complain(target, error)
    state = quota_service_pb2.HoldState.Name(answer.state).removeprefix("HOLD_STATE_").lower()
    _say(f"{tenant}: {hold_id} is {state}" if answer.applied else f"{tenant}: {hold_id} was {state} before")
    return OK


def _open_holds(channel: grpc.Channel, policy: str, tenant: str) -> Iterator[admin_service_pb2.Hold]:
    token = ""
    while True:
        request = admin_service_pb2.ListHoldsRequest(policy=policy, tenant=tenant, page_size=PAGE, page_token=token)
        answer = unary(channel, "ListHolds", request, admin_service_pb2.ListHoldsResponse)
        yield from answer.holds
        token = answer.next_page_token
        if not token:
            return


def _line(hold: admin_service_pb2.Hold) -> str:
    """The hold on one line: id, action, when its lease ends, its dimensions, and what it keeps by meter."""
    scope = "".join(f" {name}={value}" for name, value in sorted(hold.scope.items()))
    kept = "".join(f" {meter.meter}:{meter.reserved - meter.used:,}" for meter in hold.meters)
    ends = _EPOCH + timedelta(milliseconds=hold.lease_ends_at_ms)
    return f"{hold.hold_id}  {hold.action}  until {ends:%Y-%m-%d %H:%M:%S}{scope}{kept}"


def _say(text: str) -> None:
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text)
