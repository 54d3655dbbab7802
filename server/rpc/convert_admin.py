"""Messages of the control plane to domain values and back; see `convert` for what is checked here."""

from collections.abc import Iterable
from typing import Final

from quota.v1 import admin_service_pb2

from server.administration import ImportResult, ImportRow
from server.domain.account import Account, Override, TierOverride
from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.hold import HoldView
from server.domain.operation import TenantRef
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from server.imports import ImportedAllocation, ImportedUsage
from server.rpc.convert import HOLD_STATES, fill_meters

MAX_OVERRIDES: Final = 64
"""Most overrides of one account."""

MAX_FLAGS: Final = 64
"""Most flags of one account."""

MAX_IMPORT_ROWS: Final = 1000
"""Most rows of one ImportBalances."""


def account(request: admin_service_pb2.PutAccountRequest | admin_service_pb2.ImportRow) -> Account:
    """The record in a request."""
    if not request.HasField("account"):
        raise InvalidRequestError.of("account", "is required")
    message = request.account
    if bad := _account_violations(message):
        raise InvalidRequestError(bad)
    return Account(
        plan=message.plan,
        created_at_ms=message.created_at_ms,
        flags=dict(message.flags),
        overrides=tuple(_override(override) for override in message.overrides),
        lifetime_purchased_usd_micros=message.lifetime_purchased_usd_micros,
        tier_override=_tier_override(message.tier_override) if message.HasField("tier_override") else None,
    )


def _account_violations(message: admin_service_pb2.Account) -> list[FieldViolation]:
    bad: list[FieldViolation] = []
    for name, size, most in (
        ("flags", len(message.flags), MAX_FLAGS),
        ("overrides", len(message.overrides), MAX_OVERRIDES),
    ):
        if size > most:
            bad.append(FieldViolation(f"account.{name}", f"has {size} entries; at most {most} are allowed"))
    bad += _range_violations("account.lifetime_purchased_usd_micros", message.lifetime_purchased_usd_micros)
    for place, override in enumerate(message.overrides[:MAX_OVERRIDES]):
        bad += _range_violations(f"account.overrides[{place}].expires_at_ms", override.expires_at_ms)
    bad += _range_violations("account.tier_override.expires_at_ms", message.tier_override.expires_at_ms)
    return bad


def _range_violations(field: str, value: int) -> list[FieldViolation]:
    if 0 <= value <= MAX_AMOUNT:
        return []
    return [FieldViolation(field, f"is {value}; must be from 0 to 2^53 - 1")]


def _override(message: admin_service_pb2.Override) -> Override:
    expires_at_ms = message.expires_at_ms if message.HasField("expires_at_ms") else FOREVER_MS
    return Override(message.limit_id, message.value, expires_at_ms)


def _tier_override(message: admin_service_pb2.TierOverride) -> TierOverride:
    expires_at_ms = message.expires_at_ms if message.HasField("expires_at_ms") else FOREVER_MS
    return TierOverride(message.tier, expires_at_ms)


def expected_version(request: admin_service_pb2.PutAccountRequest) -> int:
    """The version that the caller read."""
    if bad := _range_violations("expected_version", request.expected_version):
        raise InvalidRequestError(bad)
    return request.expected_version


def import_rows(request: admin_service_pb2.ImportBalancesRequest) -> list[ImportRow]:
    """The rows to bring in. One malformed row spoils the request: nothing is brought in."""
    if len(request.rows) > MAX_IMPORT_ROWS:
        text = f"has {len(request.rows)} entries; at most {MAX_IMPORT_ROWS} are allowed"
        raise InvalidRequestError.of("rows", text)
    rows: list[ImportRow] = []
    bad: list[FieldViolation] = []
    for place, row in enumerate(request.rows):
        try:
            record = account(row)
        except InvalidRequestError as error:
            bad += [FieldViolation(f"rows[{place}].{field}", said) for field, said in error.violations]
        else:
            ref, usage = TenantRef(request.policy, row.tenant), _imported_usage(row.usage)
            standing = _imported_allocations(row.allocations)
            rows.append(ImportRow(ref, record, row.import_id, dict(row.balances), usage, standing))
    if bad:
        raise InvalidRequestError(bad)
    return rows


def _imported_usage(usage: Iterable[admin_service_pb2.ImportedUsage]) -> list[ImportedUsage]:
    return [ImportedUsage(use.limit_id, dict(use.scope), use.used) for use in usage]


def _imported_allocations(allocations: Iterable[admin_service_pb2.ImportedAllocation]) -> list[ImportedAllocation]:
    return [ImportedAllocation(one.limit_id, dict(one.scope), one.allocation, one.units or 1) for one in allocations]


def account_message(value: Account) -> admin_service_pb2.Account:
    """The record as it travels."""
    tier, override = value.tier_override, None
    if tier is not None:
        expires_at_ms = None if tier.expires_at_ms == FOREVER_MS else tier.expires_at_ms
        override = admin_service_pb2.TierOverride(tier=tier.plan, expires_at_ms=expires_at_ms)
    return admin_service_pb2.Account(
        plan=value.plan,
        created_at_ms=value.created_at_ms,
        flags=value.flags,
        overrides=[
            admin_service_pb2.Override(
                limit_id=override.limit_id,
                value=override.value,
                expires_at_ms=None if override.expires_at_ms == FOREVER_MS else override.expires_at_ms,
            )
            for override in value.overrides
        ],
        lifetime_purchased_usd_micros=value.lifetime_purchased_usd_micros,
        version=value.version,
        tier_override=override,
    )


def import_results(results: Iterable[ImportResult]) -> list[admin_service_pb2.ImportResult]:
    """What each row came to, in order."""
    return [
        admin_service_pb2.ImportResult(tenant=result.tenant, applied=result.applied, error=result.error)
        for result in results
    ]


def hold_message(view: HoldView) -> admin_service_pb2.Hold:
    """A hold or tombstone as stored."""
    message = admin_service_pb2.Hold(
        hold_id=view.hold_id,
        state=HOLD_STATES[view.state],
        action=view.note.action,
        scope=view.note.scope,
        created_at_ms=view.created_at_ms,
        lease_ends_at_ms=view.lease_ends_at_ms,
        longest_ends_at_ms=view.longest_ends_at_ms,
        policy_version=view.note.policy_version,
    )
    fill_meters(message.meters, view.meters)
    return message
