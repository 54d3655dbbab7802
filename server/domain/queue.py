"""Queues in front of pools: who waits, in the order of arrival, and how many places there are for them."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from server.domain.account import Account
from server.domain.errors import AccountNotFoundError
from server.domain.limit_value import value_in
from server.domain.limits.slots import Slots
from server.domain.operation import TenantRef
from server.domain.plan import account_or_default, plan_span
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT

CALL_TICKET_MS: Final = 5000
"""How long the place of an open call is kept without a sign of life from the process that has it."""


class Ticket(NamedTuple):
    """How a place in a queue is kept: until `lasts_ms` after it was asked for last, by a process's open call `owner`
    (the process, a dot, the call) or, where that is empty, by whoever repeats the request.
    """

    lasts_ms: int
    owner: str = ""


class Group(NamedTuple):
    """Pools that share `cap` places; in one of several cells they share the order of arrival, too."""

    cap: int
    cells: tuple[str, ...]


class QueueTerms(NamedTuple):
    """The pools with queues of one tenant, for an account's version, from `from_ms` to `until_ms` (exclusive)."""

    version: int
    from_ms: int
    until_ms: int
    groups: tuple[Group, ...]


TermsOf: TypeAlias = Callable[[TenantRef, Account | None, int], QueueTerms]
"""The queues of a tenant with this account at this instant; HoldgateError where its policy is not known."""


def queue_terms(policy: Policy, ref: TenantRef, stored: Account | None, now_ms: int) -> QueueTerms:
    """The pools of a policy that have queues, as they stand for an account now. An account that the policy has no plan
    for has none: nobody's turn comes, and who waits leaves with the ticket.
    """
    try:
        account = account_or_default(policy, ref, stored, now_ms)
    except AccountNotFoundError:
        return no_queues(ref, stored, now_ms)
    from_ms, until_ms = plan_span(policy, account, now_ms)
    pools = [limit for limit in policy.limits if isinstance(limit, Slots) and limit.queue is not None]
    groups: dict[tuple[str, ...], Group] = {}
    for pool in pools:
        value = value_in(policy, pool, account, now_ms)
        from_ms, until_ms = max(from_ms, value.from_ms), min(until_ms, value.until_ms)
        cells = pool.joined(account.plan)
        cap = MAX_AMOUNT if value.value is None else value.value
        groups[cells] = Group(cap, cells)
    return QueueTerms(account.version, from_ms, until_ms, tuple(groups.values()))


def no_queues(_ref: TenantRef, account: Account | None, _now_ms: int) -> QueueTerms:
    """There is no pool with a queue."""
    return QueueTerms(account.version if account is not None else 0, 0, MAX_AMOUNT, ())


def ahead(arrivals: Sequence[tuple[str, str]], cells: Sequence[str], hold_id: str) -> int:
    """A ticket's position among those that wait for these cells, from 1; `arrivals` are cell and id, first come first.

    0 for one that does not wait.
    """
    waiting = [each for cell, each in arrivals if cell in cells]
    return waiting.index(hold_id) + 1 if hold_id in waiting else 0
