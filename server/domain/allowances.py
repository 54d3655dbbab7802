"""Allowances that change by themselves: which quotas to look at for thresholds then, and when next."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from server.domain.account import Account
from server.domain.errors import AccountNotFoundError
from server.domain.limit_value import value_of
from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm, account_or_default, bare_form
from server.domain.policy import Policy
from server.domain.units import FOREVER_MS


class QuotaLooks(NamedTuple):
    """Quotas with thresholds as they stand for an account, and the next instant at which time changes one of them."""

    checks: tuple[CheckForm, ...] = ()
    again_ms: int = FOREVER_MS


LooksOf: TypeAlias = Callable[[TenantRef, Account | None, int, Iterable[tuple[str, tuple[str, ...]]]], QuotaLooks]
"""The looks of a tenant with this account at this instant, of those of its cells that are given by name and values of
their dimensions; HoldgateError where its policy is not known.
"""


def quota_looks(
    policy: Policy, ref: TenantRef, account: Account | None, now_ms: int, cells: Iterable[tuple[str, tuple[str, ...]]]
) -> QuotaLooks:
    """The looks of a tenant. One that the policy has no plan for has none."""
    quotas = {limit.cell: limit for limit in _watched(policy)}
    try:
        owner = account_or_default(policy, ref, account, now_ms)
    except AccountNotFoundError:
        return QuotaLooks()
    checks = [_check(quotas[cell], scope, owner, now_ms) for cell, scope in cells if cell in quotas]
    return QuotaLooks(tuple(checks), next_change_ms(policy, account, now_ms))


def no_looks(
    _ref: TenantRef, _account: Account | None, _now_ms: int, _cells: Iterable[tuple[str, tuple[str, ...]]]
) -> QuotaLooks:
    """No policy has thresholds."""
    return QuotaLooks()


def next_change_ms(policy: Policy, account: Account | None, now_ms: int) -> int:
    """When time next changes what a quota with thresholds allows the account: an override or a tier's ends. The start
    of a cycle is none of these: nothing of it is used then.
    """
    watched = {limit.id for limit in _watched(policy)}
    if account is None or not watched:
        return FOREVER_MS
    ends_ms = [override.expires_at_ms for override in account.overrides if override.limit_id in watched]
    if account.tier_override is not None:
        ends_ms.append(account.tier_override.expires_at_ms)
    return min((end_ms for end_ms in ends_ms if end_ms > now_ms), default=FOREVER_MS)


def _watched(policy: Policy) -> list[Quota]:
    return [limit for limit in policy.limits if isinstance(limit, Quota) and limit.thresholds]


def _check(quota: Quota, scope: tuple[str, ...], account: Account, now_ms: int) -> CheckForm:
    return bare_form(quota, scope, value_of(quota, account, now_ms).value, quota.terms(account, now_ms))
