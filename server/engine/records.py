"""What is stored, as domain values: accounts and holds. Layouts stand in `lua/include/hold_layout.lua`."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgpack
import orjson

from server.domain.account import Account, Override, TierOverride
from server.domain.errors import CorruptStateError
from server.domain.hold import HoldNote, HoldView, MeterTotals, State
from server.engine.sequences import array_head, unpack

METER_SIZE: Final = 4
FINGERPRINT_BYTES: Final = 16


def account_record(account: Account) -> bytes:
    """An account as stored: JSON with sorted keys, so that equal accounts have equal bytes."""
    record: dict[str, object] = {
        "plan": account.plan,
        "created_at_ms": account.created_at_ms,
        "flags": dict(account.flags),
        "overrides": [[o.limit_id, o.value, o.expires_at_ms] for o in account.overrides],
        "lifetime_purchased_usd_micros": account.lifetime_purchased_usd_micros,
        "version": account.version,
    }
    if (tier := account.tier_override) is not None:
        record["tier_override"] = [tier.plan, tier.expires_at_ms]
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)


def account_of(record: bytes) -> Account | None:
    """A stored account; None for an empty record."""
    if not record:
        return None
    try:
        fields = orjson.loads(record)
        return Account(
            plan=fields["plan"],
            created_at_ms=fields["created_at_ms"],
            flags=fields["flags"],
            overrides=tuple(Override(*override) for override in fields["overrides"]),
            lifetime_purchased_usd_micros=fields["lifetime_purchased_usd_micros"],
            version=fields["version"],
            tier_override=TierOverride(*fields["tier_override"]) if "tier_override" in fields else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        message = f"an account record is not readable: {error!r}"
        raise CorruptStateError(message) from error


def hold_of(hold_id: str, record: bytes) -> HoldView:
    """A stored hold or tombstone."""
    try:
        state, created, lease_end, longest_end, _, marks, lease_ms, _, note, meters, *rest = unpack(record)
        action, version, scope, prices, *timed = msgpack.unpackb(note)
        return HoldView(
            hold_id=hold_id,
            state=State(state),
            fingerprint=marks[:FINGERPRINT_BYTES],
            created_at_ms=created,
            lease_ends_at_ms=created + lease_end if lease_end else 0,
            longest_ends_at_ms=created + longest_end if longest_end else 0,
            lease_ms=lease_ms,
            meters=dict(_meter_totals(rest[: meters * METER_SIZE])),
            note=HoldNote(action, version, scope, prices, *timed),
        )
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        message = f"hold {hold_id!r} is not readable: {error!r}"
        raise CorruptStateError(message) from error


def meters_of(packed: bytes) -> dict[str, MeterTotals]:
    """The meters of a settled hold, as `settle.lua` answers them."""
    count = packed[0]
    return dict(_meter_totals(msgpack.unpackb(array_head(1 + count * METER_SIZE) + packed)[1:]))


def _meter_totals(flat: Sequence[Any]) -> Iterable[tuple[str, MeterTotals]]:
    for at in range(0, len(flat), METER_SIZE):
        name, reserved, reported, uncollected = flat[at : at + METER_SIZE]
        yield (
            name if isinstance(name, str) else name.decode(),
            MeterTotals(reserved, reported if reported >= 0 else None, uncollected),
        )
