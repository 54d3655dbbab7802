"""What `holdgate usage TENANT` prints: a tenant's limits as bars, and the cycles of its quotas, asked of a server."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import grpc
from quota.v1 import decision_pb2, quota_service_pb2
from rich.console import Console

from server.reaching import Target, complain

OK: Final = 0

WITHIN_S: Final = 5.0
WIDTH: Final = 30
"""Cells of a bar."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999
"""The last instant that a year of four digits can show."""

_MICROS: Final = 1_000_000
_SPANS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))


class Blocks(NamedTuple):
    """What a bar is drawn with: used, held and free cells, and where the cycle is projected to end."""

    used: str
    held: str
    free: str
    projected: str


_DRAWN: Final = Blocks("█", "▒", "·", "│")
_PLAIN: Final = Blocks("#", "+", ".", "|")

_CONFIDENCES: Final = {
    quota_service_pb2.PROJECTION_CONFIDENCE_LOW: "low",
    quota_service_pb2.PROJECTION_CONFIDENCE_MEDIUM: "medium",
    quota_service_pb2.PROJECTION_CONFIDENCE_HIGH: "high",
}


def usage(target: Target, policy: str, tenant: str, scope: Mapping[str, str]) -> int:
    """Prints the figures that a server has of a tenant now; 1 when it does not give them."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    request = quota_service_pb2.GetUsageRequest(policy=policy, tenant=tenant, scope=scope)
    with target.channel() as channel:
        try:
            answer: quota_service_pb2.GetUsageResponse = _method(channel)(request, timeout=WITHIN_S)
        except grpc.RpcError as error:
            return complain(target, error)
    blocks = _DRAWN if console.encoding.lower().startswith("utf") else _PLAIN
    for line in shown(tenant, answer, blocks):
        console.print(line)
    return OK


def _method(channel: grpc.Channel) -> Callable[..., quota_service_pb2.GetUsageResponse]:
    """The call itself: the stubs' annotations know asynchronous channels only."""
    return channel.unary_unary(
        "/quota.v1.QuotaService/GetUsage",
        request_serializer=quota_service_pb2.GetUsageRequest.SerializeToString,
        response_deserializer=quota_service_pb2.GetUsageResponse.FromString,
    )


def shown(tenant: str, answer: quota_service_pb2.GetUsageResponse, blocks: Blocks) -> Iterator[str]:
    """The lines of an answer: a bar for each limit, and below a quota its cycles."""
    yield f"{tenant}, by policy {answer.policy_version}"
    if answer.unavailable:
        yield "its use is counted, and not shown: the policy says so (usage.visible)"
    if answer.HasField("banner"):
        yield f"{answer.banner.level}: {answer.banner.text} ({answer.banner.limit_id})"
    quotas = {_name(quota.limit_id, quota.scope): quota for quota in answer.quotas}
    for status in answer.limits:
        name = _name(status.id, status.scope)
        quota = quotas.get(name)
        projected = quota.projection.used if quota is not None and quota.HasField("projection") else 0
        yield ""
        yield f"{name}{_reset(status)}"
        yield f"  {_bar(status, projected, blocks)}"
        if quota is not None:
            yield from (f"  {line}" for line in _cycles(quota, blocks))


def _name(limit_id: str, scope: Mapping[str, str]) -> str:
    return f"{limit_id} ({', '.join(f'{name} {value}' for name, value in scope.items())})" if scope else limit_id


def _reset(status: decision_pb2.LimitStatus) -> str:
    return f", resets in {_span(status.reset_after_ms)}" if status.reset_after_ms else ""


def _bar(status: decision_pb2.LimitStatus, projected: int, blocks: Blocks) -> str:
    meter = f" {status.meter}" if status.meter else ""
    held = f", {status.held:,} of them held" if status.held else ""
    if not status.HasField("limit"):
        return f"{status.used:,}{meter} used{held}; no limit"
    bar = _cells(status.used - status.held, status.held, status.limit, blocks)
    if projected and projected < status.limit:
        at = _share(projected, status.limit)
        bar = bar[:at] + blocks.projected + bar[at + 1 :]
    return f"{bar}  {status.used:,} of {status.limit:,}{meter} used{held}; {status.remaining:,} left"


def _cells(used: int, held: int, limit: int, blocks: Blocks) -> str:
    """A bar; whatever is used shows at least one cell, and only a full one is full."""
    taken = _share(used + held, limit)
    full = min(_share(used, limit), taken)
    return blocks.used * full + blocks.held * (taken - full) + blocks.free * (WIDTH - taken)


def _share(units: int, limit: int) -> int:
    if units <= 0:
        return 0
    if units >= limit:
        return WIDTH
    return min(max(units * WIDTH // limit, 1), WIDTH - 1)


def _cycles(quota: quota_service_pb2.QuotaUsage, blocks: Blocks) -> Iterator[str]:
    yield f"cycle {_day(quota.current.starts_at_ms)} to {_day(quota.current.ends_at_ms)}{_beyond(quota.current)}"
    if quota.HasField("projection"):
        yield _projected(quota)
    for cycle in quota.past:
        bar = _cells(cycle.accepted, cycle.held, cycle.allowance, blocks) if cycle.HasField("allowance") else ""
        of = f" of {cycle.allowance:,}" if cycle.HasField("allowance") else ""
        held = f", {cycle.held:,} held" if cycle.held else ""
        yield f"{_day(cycle.starts_at_ms)} {bar}  {cycle.accepted:,}{of} {quota.meter}{held}{_beyond(cycle)}"


def _projected(quota: quota_service_pb2.QuotaUsage) -> str:
    """What the cycle will come to, and when the allowance ends if it does."""
    found = quota.projection
    ends = f"; used up {_time(found.exhausted_at_ms)}" if found.HasField("exhausted_at_ms") else ""
    told = f"{found.used:,} {quota.meter} by {_day(quota.current.ends_at_ms)}"
    return f"projected {told} at this rate, {_CONFIDENCES.get(found.confidence, 'unknown')} confidence{ends}"


def _beyond(cycle: quota_service_pb2.CycleUsage) -> str:
    """What was used above the allowance, and when that ends."""
    parts: list[str] = []
    if cycle.overage:
        parts.append(f"{cycle.overage:,} billed, ${_dollars(cycle.overage_usd_micros)}")
    if cycle.grace:
        parts.append(f"{cycle.grace:,} in grace")
    if cycle.over_hard:
        parts.append(f"{cycle.over_hard:,} beyond the hard stop")
    if cycle.state == quota_service_pb2.QUOTA_STATE_GRACE:
        parts.append(f"exhausted, served until {_time(cycle.grace_ends_at_ms)}")
    if cycle.state == quota_service_pb2.QUOTA_STATE_ENFORCED:
        parts.append("exhausted")
    return "".join(f"; {part}" for part in parts)


def _dollars(micros: int) -> str:
    whole, rest = divmod(micros, _MICROS)
    return f"{whole:,}.{rest:06d}".rstrip("0").ljust(len(f"{whole:,}.00"), "0")


def _day(at_ms: int) -> str:
    return f"{_at(at_ms):%Y-%m-%d}"


def _time(at_ms: int) -> str:
    return f"{_at(at_ms):%Y-%m-%d %H:%M} UTC"


def _at(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(at_ms, _LAST_MS))


def _span(duration_ms: int) -> str:
    """A duration in its two largest units, rounded down, such as `20 d 12 h`."""
    parts: list[str] = []
    for unit, size_ms in _SPANS:
        count, duration_ms = divmod(duration_ms, size_ms)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "less than 1 s"
