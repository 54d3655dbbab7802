"""What `holdgate reset`, `adjust`, `delete` and `audit` do: operators' hands, and what they have done."""

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import uuid4

import grpc
from quota.v1 import operators_pb2
from rich.console import Console

from server.ledger_commands import OK, PAGE, unary
from server.reaching import Target, complain, warn

UNUSABLE: Final = 2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Asked(NamedTuple):
    """Whose limit is meant, on what grounds, and the id by which a repeat is known (empty: a new one)."""

    policy: str
    tenant: str
    limit: str
    scope: Mapping[str, str]
    reason: str
    given_id: str

    @property
    def what(self) -> str:
        """The limit with its dimensions, for people."""
        return " ".join([self.limit, *(f"{name}={value}" for name, value in sorted(self.scope.items()))])


class Whose(NamedTuple):
    """Who is to be deleted, and on what grounds."""

    policy: str
    tenant: str
    reason: str


def reset(target: Target, asked: Asked, *, yes: bool) -> int:
    """Forgets what a limit has counted, once told yes; 1 when the server fails, 2 when nobody said yes."""
    if not confirmed(f"Forget what {asked.what} of {asked.tenant} has counted?", yes=yes):
        return UNUSABLE
    reset_id = asked.given_id or uuid4().hex
    request = operators_pb2.ResetLimitRequest(
        policy=asked.policy,
        tenant=asked.tenant,
        limit_id=asked.limit,
        scope=asked.scope,
        reset_id=reset_id,
        reason=asked.reason,
    )
    with target.channel() as channel:
        try:
            answer = unary(channel, "ResetLimit", request, operators_pb2.ResetLimitResponse)
        except grpc.RpcError as error:
            return _complain(target, error, reset_id)
    cells = f"{answer.cells:,} cells" if answer.cells != 1 else "1 cell"
    done = "is reset" if answer.applied else "was reset before"
    _say(f"{asked.tenant}: {asked.what} {done}: {answer.before:,} forgotten in {cells}")
    return OK


def adjust(target: Target, asked: Asked, change: Mapping[str, int]) -> int:
    """Changes a quota's use or a balance by the one field of `change` (add, set_to); 1 when the server fails."""
    adjustment_id = asked.given_id or uuid4().hex
    request = operators_pb2.AdjustLimitRequest(
        policy=asked.policy,
        tenant=asked.tenant,
        limit_id=asked.limit,
        scope=asked.scope,
        adjustment_id=adjustment_id,
        reason=asked.reason,
        **change,
    )
    with target.channel() as channel:
        try:
            answer = unary(channel, "AdjustLimit", request, operators_pb2.AdjustLimitResponse)
        except grpc.RpcError as error:
            return _complain(target, error, adjustment_id)
    done = "is adjusted" if answer.applied else "was adjusted before"
    _say(f"{asked.tenant}: {asked.what} {done}: from {answer.before:,} to {answer.after:,}")
    return OK


def delete(target: Target, whose: Whose, *, force: bool, yes: bool) -> int:
    """Deletes a tenant, once told yes, and says how far it is; 1 when the server fails, 2 when nobody said yes."""
    policy, tenant, reason = whose
    if not confirmed(f"Delete everything of {tenant}? It cannot be brought back.", yes=yes):
        return UNUSABLE
    done = operators_pb2.DeleteTenantResponse()
    begun = holds = keys = 0
    with target.channel() as channel:
        while True:
            request = operators_pb2.DeleteTenantRequest(
                policy=policy, tenant=tenant, force=force, reason=reason, page_token=done.next_page_token
            )
            try:
                done = unary(channel, "DeleteTenant", request, operators_pb2.DeleteTenantResponse)
            except grpc.RpcError as error:
                status = complain(target, error)
                if begun or keys:
                    warn(f"{tenant} is deleted in part, and takes nothing new: delete it again")
                return status
            begun, holds, keys = begun + done.applied, holds + done.holds_ended, keys + done.keys_removed
            if not done.next_page_token:
                break
            warn(f"{tenant}: {keys:,} keys removed so far")
    _say(f"{tenant}: deleted, with {holds:,} open holds" if begun or keys else f"{tenant}: there is nothing to delete")
    return OK


def audit(target: Target, policy: str, tenant: str) -> int:
    """Prints what was done to a tenant, or with an empty name to all of them, the first first; 1 when it fails."""
    with target.channel() as channel:
        try:
            entries = list(_entries(channel, policy, tenant))
        except grpc.RpcError as error:
            return complain(target, error)
    for entry in sorted(entries, key=lambda entry: entry.at_ms) if not tenant else entries:
        _say(_line(entry))
    if not entries:
        warn(f"nothing was done by hand to {tenant or 'anybody'}")
    return OK


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether somebody says yes: on the command line, or where there is a terminal to ask at."""
    if yes:
        return True
    if not sys.stdin.isatty():
        warn(f"{question} There is no terminal to ask at: say --yes")
        return False
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _entries(channel: grpc.Channel, policy: str, tenant: str) -> Iterator[operators_pb2.AuditEntry]:
    token = ""
    while True:
        request = operators_pb2.ListAuditRequest(policy=policy, tenant=tenant, page_size=PAGE, page_token=token)
        answer = unary(channel, "ListAudit", request, operators_pb2.ListAuditResponse)
        yield from answer.entries
        token = answer.next_page_token
        if not token:
            return


def _line(entry: operators_pb2.AuditEntry) -> str:
    """The act on one line: when, who, what to whom, from what to what, why."""
    at = _EPOCH + timedelta(milliseconds=entry.at_ms)
    action = operators_pb2.AuditAction.Name(entry.action).removeprefix("AUDIT_ACTION_").lower()
    words = [f"{at:%Y-%m-%d %H:%M:%S}", entry.caller or "-", action, entry.tenant]
    words += [text for text in (entry.target, f"{entry.before or '-'} -> {entry.after or '-'}") if text]
    return "  ".join([*words, *([f"({entry.reason})"] if entry.reason else [])])


def _complain(target: Target, error: grpc.RpcError, act_id: str) -> int:
    """Says how an act failed; where nobody knows whether it was done, with which id it is done once."""
    status = complain(target, error)
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        warn(f"it may have been done or not; repeat it with --id {act_id}, and it is done once")
    return status


def _say(text: str) -> None:
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text)
