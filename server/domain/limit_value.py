"""What a limit allows one account: the policy's value, the plan's, or an override's."""

from enum import IntEnum
from typing import NamedTuple

from server.domain.account import Account
from server.domain.limits.base import Kind, Limit
from server.domain.limits.slots import Slots
from server.domain.policy import Policy
from server.domain.units import FOREVER_MS


class Source(IntEnum):
    """Where a limit's value came from."""

    POLICY = 1
    PLAN = 2
    OVERRIDE = 3


class Value(NamedTuple):
    """A limit's value for one account: None means unlimited; valid for from_ms <= now < until_ms."""

    value: int | None
    source: Source
    from_ms: int = 0
    until_ms: int = FOREVER_MS


def value_of(limit: Limit, account: Account, now_ms: int) -> Value:
    """The limit's own value now. An override stops at exactly its expiry."""
    from_ms = 0
    for override in account.overrides:
        if override.limit_id == limit.id:
            if now_ms < override.expires_at_ms:
                return Value(override.value, Source.OVERRIDE, until_ms=override.expires_at_ms)
            from_ms = max(from_ms, override.expires_at_ms)
    source = Source.POLICY if limit.values.by_plan is None else Source.PLAN
    if limit.kind is Kind.COUNT and account.flags.get(limit.lifted_by):
        return Value(None, source, from_ms=from_ms)
    return Value(limit.values.of(account.plan), source, from_ms=from_ms)


def value_in(policy: Policy, limit: Limit, account: Account, now_ms: int) -> Value:
    """The limit's value now; of a pool that shares its places with others, the smallest of theirs."""
    if not isinstance(limit, Slots) or limit.joined(account.plan) == (limit.cell,):
        return value_of(limit, account, now_ms)
    joined = limit.joined(account.plan)
    values = [value_of(pool, account, now_ms) for pool in policy.limits if pool.cell in joined]
    least = min(values, key=lambda value: FOREVER_MS if value.value is None else value.value)
    from_ms, until_ms = max(value.from_ms for value in values), min(value.until_ms for value in values)
    return least._replace(from_ms=from_ms, until_ms=until_ms)
