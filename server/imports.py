"""Use of quotas and allocations from before a tenant came here, as an engine books them."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from server.domain.account import Account
from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.limit_value import value_of
from server.domain.limits import Count, Limit, Quota
from server.domain.operation import text_violations, unknown
from server.domain.plan import CheckForm, bare_form
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import AllocationImport, CycleImport

MAX_IMPORTED_USAGE: Final = 64
"""Most entries of usage in one row."""

MAX_IMPORTED_ALLOCATIONS: Final = 1000
"""Most allocations in one row."""


class ImportedUsage(NamedTuple):
    """Units of a quota, for these values of its dimensions, that were used in its current cycle so far."""

    limit_id: str
    scope: Mapping[str, str]
    used: int


class ImportedAllocation(NamedTuple):
    """Units of a count, for these values of its dimensions, that stand under a name."""

    limit_id: str
    scope: Mapping[str, str]
    name: str
    units: int


def imported_uses(
    policy: Policy, account: Account, usage: Sequence[ImportedUsage], now_ms: int
) -> tuple[CycleImport, ...]:
    """What to book in the account's cycles at `now_ms`; raises with every field that the policy does not know."""
    if len(usage) > MAX_IMPORTED_USAGE:
        text = f"has {len(usage)} entries; at most {MAX_IMPORTED_USAGE} are allowed"
        raise InvalidRequestError.of("usage", text)
    quotas = {limit.id: limit for limit in policy.limits if isinstance(limit, Quota)}
    bad: list[FieldViolation] = []
    uses: dict[tuple[str, tuple[str, ...]], CycleImport] = {}
    for index, use in enumerate(usage):
        field = f"usage[{index}]"
        quota = quotas.get(use.limit_id)
        if quota is None:
            bad.append(unknown(f"{field}.limit_id", use.limit_id, policy.name, "quota", quotas))
            continue
        wrong = _violations(field, use, quota)
        scope = tuple(use.scope.get(name, "") for name in quota.scope)
        if (quota.id, scope) in uses:
            wrong.append(FieldViolation(field, f"names quota {quota.id!r} a second time; add the two up"))
        bad += wrong
        uses[quota.id, scope] = CycleImport(_check(quota, scope, account, now_ms), use.used)
    if bad:
        raise InvalidRequestError(bad)
    return tuple(uses.values())


def imported_allocations(policy: Policy, allocations: Sequence[ImportedAllocation]) -> tuple[AllocationImport, ...]:
    """What is to stand; raises with every field that the policy does not know."""
    if len(allocations) > MAX_IMPORTED_ALLOCATIONS:
        text = f"has {len(allocations)} entries; at most {MAX_IMPORTED_ALLOCATIONS} are allowed"
        raise InvalidRequestError.of("allocations", text)
    counts = {limit.id: limit for limit in policy.limits if isinstance(limit, Count)}
    bad: list[FieldViolation] = []
    standing: dict[tuple[str, str], AllocationImport] = {}
    for index, one in enumerate(allocations):
        field = f"allocations[{index}]"
        count = counts.get(one.limit_id)
        if count is None:
            bad.append(unknown(f"{field}.limit_id", one.limit_id, policy.name, "count", counts))
            continue
        bad += text_violations(f"{field}.allocation", one.name, required=True)
        bad += cell_violations(f"{field}.scope", one.scope, count)
        if not 1 <= one.units <= MAX_AMOUNT:
            bad.append(FieldViolation(f"{field}.units", f"is {one.units}; must be from 1 to 2^53 - 1"))
        if (count.id, one.name) in standing:
            bad.append(FieldViolation(f"{field}.allocation", f"names {one.name!r} of {count.id!r} a second time"))
        scope = tuple(one.scope.get(name, "") for name in count.scope)
        standing[count.id, one.name] = AllocationImport(bare_form(count, scope, 0, None), one.name, one.units)
    if bad:
        raise InvalidRequestError(bad)
    return tuple(standing.values())


def cell_violations(field: str, scope: Mapping[str, str], limit: Limit) -> list[FieldViolation]:
    """What is wrong with a scope, in this field of a request, that must name one cell of a limit."""
    bad: list[FieldViolation] = []
    if sorted(scope) != sorted(limit.scope):
        expected = ", ".join(limit.scope) or "no dimension"
        bad.append(FieldViolation(field, f"must name {expected}: {limit.kind.name.lower()} {limit.id!r} is kept so"))
    for name, value in scope.items():
        bad += text_violations(f"{field}[{name}]", value, required=True)
    return bad


def _violations(field: str, use: ImportedUsage, quota: Quota) -> list[FieldViolation]:
    bad = cell_violations(f"{field}.scope", use.scope, quota)
    if not 0 <= use.used <= MAX_AMOUNT:
        bad.append(FieldViolation(f"{field}.used", f"is {use.used}; must be from 0 to 2^53 - 1"))
    return bad


def _check(quota: Quota, scope: tuple[str, ...], account: Account, now_ms: int) -> CheckForm:
    """The quota as it stands for the account, asked for nothing."""
    return bare_form(quota, scope, value_of(quota, account, now_ms).value, quota.terms(account, now_ms))
