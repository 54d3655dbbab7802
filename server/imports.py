"""Use of quotas that happened before a tenant came here, as an engine books it."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from server.domain.account import Account
from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.limits import Quota
from server.domain.operation import text_violations, unknown
from server.domain.plan import CheckForm, value_of
from server.domain.policy import Policy
from server.domain.units import MAX_AMOUNT
from server.engine.base import CycleImport

MAX_IMPORTED_USAGE: Final = 64
"""Most entries of one row."""


class ImportedUsage(NamedTuple):
    """Units of a quota, for these values of its dimensions, that were used in its current cycle so far."""

    limit_id: str
    scope: Mapping[str, str]
    used: int


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


def _violations(field: str, use: ImportedUsage, quota: Quota) -> list[FieldViolation]:
    bad: list[FieldViolation] = []
    if sorted(use.scope) != sorted(quota.scope):
        expected = ", ".join(quota.scope) or "no dimension"
        bad.append(FieldViolation(f"{field}.scope", f"must name {expected}: quota {quota.id!r} is kept so"))
    for name, value in use.scope.items():
        bad += text_violations(f"{field}.scope[{name}]", value, required=True)
    if not 0 <= use.used <= MAX_AMOUNT:
        bad.append(FieldViolation(f"{field}.used", f"is {use.used}; must be from 0 to 2^53 - 1"))
    return bad


def _check(quota: Quota, scope: tuple[str, ...], account: Account, now_ms: int) -> CheckForm:
    """The quota as it stands for the account, asked for nothing."""
    value = value_of(quota, account, now_ms).value
    return CheckForm(
        place=0,
        limit=quota,
        scope=scope,
        cap=MAX_AMOUNT if value is None else value,
        settles=False,
        meter=-1,
        fixed=0,
        asks_room=False,
        terms=quota.terms(account, now_ms),
    )
