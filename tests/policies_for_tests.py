"""Policies built by hand for tests of planning and of the engines, without YAML.

`policy(...)` makes one of whatever limits a test names; the builders beside it fill in what most tests do not
care about. A limit refuses with its own id as the code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from server.domain.limits import Balance, Count, Gate, Guard, Kind, Limit, Quota, Slots, Window
from server.domain.limits.balance import GrantSource, Refilling
from server.domain.limits.base import UNLIMITED, PlanValues
from server.domain.limits.slots import Queue
from server.domain.policy import Action, Envelope, HoldTerms, Meter, Policy, Product, RefusalRule
from server.domain.templates import Template

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

TERMS: Final = HoldTerms(
    lease_ms=120_000, longest_ms=HOUR_MS, tombstone_ms=30 * 24 * HOUR_MS, replay_ms=30 * 24 * HOUR_MS
)
"""The default leases; records outlive every test, whose clock runs faster than a real store's."""

METERS: Final = {
    meter.name: meter
    for meter in (Meter("requests", per_request=1), Meter("tokens"), Meter("credits"), Meter("frames"))
}
PLANS: Final = ("free", "pro")


def values(value: int | Mapping[str, int | None] | None) -> PlanValues:
    """One value for every plan, or one for each."""
    return PlanValues(by_plan=value) if isinstance(value, Mapping) else PlanValues(constant=value)


def window(  # noqa: PLR0913  # each is a field of the limit
    limit_id: str,
    limit: int | Mapping[str, int | None] | None,
    meter: str = "requests",
    *,
    window_ms: int = MINUTE_MS,
    scope: tuple[str, ...] = (),
    returns: bool = False,
    shadow: bool = False,
    room: int | None = None,
) -> Window:
    """At most `limit` of a meter in any minute."""
    return Window(
        id=limit_id,
        label=f"the {limit_id} limit",
        refuse=limit_id,
        meter=meter,
        window_ms=window_ms,
        values=values(limit),
        scope=scope,
        returns=returns,
        shadow=shadow,
        room={"work": room} if room else {},
        cell=f"{limit_id}~w",
    )


def slots(  # noqa: PLR0913  # each is a field of the limit
    limit_id: str,
    limit: int | Mapping[str, int | None] | None,
    meter: str = "",
    *,
    scope: tuple[str, ...] = (),
    typical_ms: int = 0,
    measured: bool = False,
    queue: Queue | None = None,
    shadow: bool = False,
    room: int | None = None,
) -> Slots:
    """A pool of `limit` places; a request takes one, or its amount of `meter`."""
    return Slots(
        id=limit_id,
        label=f"the {limit_id} pool",
        refuse=limit_id,
        meter=meter,
        values=values(limit),
        scope=scope,
        typical_ms=typical_ms,
        measured=measured,
        queue=queue,
        shadow=shadow,
        room={"work": room} if room else {},
        cell=f"{limit_id}~s",
    )


def balance(  # noqa: PLR0913  # each is a field of the limit
    limit_id: str,
    meter: str = "credits",
    *,
    debt: int = 0,
    room: int | None = None,
    shadow: bool = False,
    burn: str = "",
    refill: int | Mapping[str, int | None] | None = None,
    calendar: bool = False,
    ledger: bool = False,
    unless: str = "",
    thresholds: tuple[int, ...] = (),
) -> Balance:
    """Prepaid units of a meter; `burn` has the sources' numbers in the order in which they are used up."""
    return Balance(
        id=limit_id,
        label=f"the {limit_id} balance",
        refuse=limit_id,
        meter=meter,
        debt=debt,
        opening=UNLIMITED,
        room={"work": room} if room else {},
        shadow=shadow,
        burn=tuple(GrantSource(int(digit)) for digit in burn),
        refill=None if refill is None else Refilling(values(refill), calendar=calendar),
        ledger=ledger,
        unless=unless,
        thresholds=tuple(map(values, thresholds)),
        cell=f"{limit_id}~b",
    )


def quota(  # noqa: PLR0913  # each is a field of the limit
    limit_id: str,
    limit: int | Mapping[str, int | None] | None,
    meter: str = "frames",
    *,
    scope: tuple[str, ...] = (),
    overage: int | None = 0,
    price: int = 0,
    grace_ms: int = 0,
    anchored: bool = True,
    thresholds: tuple[int, ...] = (80, 100),
    shadow: bool = False,
    room: int | None = None,
) -> Quota:
    """At most `limit` units of a meter per cycle; by default none above it, and no grace."""
    return Quota(
        id=limit_id,
        label=f"the {limit_id} quota",
        refuse=limit_id,
        meter=meter,
        values=values(limit),
        scope=scope,
        anchored=anchored,
        overage=values(overage),
        price=values(price),
        grace=values(grace_ms),
        thresholds=thresholds,
        shadow=shadow,
        room={"work": room} if room else {},
        cell=f"{limit_id}~q",
    )


def count(  # noqa: PLR0913  # each is a field of the limit
    limit_id: str,
    limit: int | Mapping[str, int | None] | None,
    meter: str = "",
    *,
    scope: tuple[str, ...] = (),
    lifted_by: str = "",
    shadow: bool = False,
    room: int | None = None,
) -> Count:
    """At most `limit` standing allocations; a request takes one, or its amount of `meter`."""
    return Count(
        id=limit_id,
        label=f"the {limit_id} count",
        refuse=limit_id,
        meter=meter,
        values=values(limit),
        scope=scope,
        lifted_by=lifted_by,
        shadow=shadow,
        room={"work": room} if room else {},
        cell=f"{limit_id}~n",
    )


def guard(limit_id: str, limit: int, meter: str) -> Guard:
    """At most `limit` of a meter in one request."""
    return Guard(id=limit_id, label=limit_id, refuse=limit_id, meter=meter, values=values(limit))


def flag_gate(flag: str, *, expect: bool, shadow: bool = False) -> Gate:
    """The account's flag must be as expected."""
    return Gate(id=flag, label=flag, refuse=flag, flag=flag, expect=expect, shadow=shadow)


def plan_gate(dimension: str, allow: Mapping[str, tuple[str, ...]]) -> Gate:
    """The plan must allow the value of a dimension."""
    return Gate(id=dimension, label=dimension, refuse=dimension, of=dimension, allow=allow)


def policy(
    *limits: Limit,
    terms: HoldTerms = TERMS,
    products: Iterable[Product] = (),
    precedence: tuple[str, ...] = (),
    envelope: Envelope | None = None,
) -> Policy:
    """A policy of these limits for the action `work`, on the plans `free` (the default) and `pro`."""
    return Policy(
        name="lab",
        version="v1",
        text="",
        tenant="org",
        meters=METERS,
        plans=PLANS,
        default_plan="free",
        dimensions=frozenset({"project", "model"}),
        actions={"work": Action("work", terms), "rest": Action("rest", terms)},
        limits=limits,
        products={product.name: product for product in products},
        refusals={limit.refuse: refusal(limit) for limit in limits},
        precedence=precedence,
        envelope=envelope,
    )


def refusal(limit: Limit) -> RefusalRule:
    """Waiting helps against windows and pools only."""
    return RefusalRule(
        code=limit.refuse,
        http_status=429 if limit.kind in {Kind.WINDOW, Kind.SLOTS} else 402,
        retryable=limit.kind in {Kind.WINDOW, Kind.SLOTS},
        message=Template.parse("{limit_name}: {used} of {limit}"),
        fields={"needed": Template.parse("{needed:int}"), "retry_after": Template.parse("{retry_after:int}")},
    )


def only_for(limit: Limit, *actions: str) -> Limit:
    """The limit, for these actions alone."""
    return replace(limit, actions=frozenset(actions))
