"""Requests drawn from a mix: the next one, and how its hold is to end."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final

from quota.v1 import quota_service_pb2 as quota

from loadtest.ledger import Hold, Scope
from loadtest.mix import Ending, Entry
from loadtest.plan import LoadPlan

PARTS: Final = 1000
"""Delivered shares are sent as so many parts out of this."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request with its fate. `key` says whose and of what kind it is: tenant's number, entry, scope."""

    key: tuple[int, int, Scope]
    request: quota.CheckAndReserveRequest
    ending: Ending
    hold_s: float
    parts: int
    repeats: bool
    repeats_end: bool


class Draw:
    """Draws requests for one process; `worker` tells its ids from those of the others."""

    def __init__(self, plan: LoadPlan, worker: int) -> None:
        self._plan = plan
        self._chance = Random(f"{plan.seed}/{worker}")  # noqa: S311  # traffic, not secrets
        self._pick = plan.picker()
        self._weights = plan.mix.cumulative_weights()
        self._ids = count()
        self._id = f"{plan.run}-{worker}-"

    def next(self) -> Drawn:
        """The next request."""
        chance, plan = self._chance, self._plan
        index = bisect_right(self._weights, chance.random() * self._weights[-1])
        entry = plan.mix.entries[index]
        tenant = self._pick(chance)
        scope = {name: _one_of(choices, chance) for name, choices in entry.scope.items()}
        request = request_of(plan, entry, plan.tenant(tenant), scope, chance)
        request.request_id = f"{self._id}{next(self._ids)}"
        return Drawn(
            key=(tenant, index, tuple(sorted(scope.items()))),
            request=request,
            ending=entry.ends.draw(chance),
            hold_s=entry.hold.draw(chance),
            parts=round(entry.delivered.draw(chance) * PARTS),
            repeats=chance.random() < plan.repeats,
            repeats_end=chance.random() < plan.repeats,
        )


def request_of(
    plan: LoadPlan, entry: Entry, tenant: str, scope: dict[str, str], chance: Random
) -> quota.CheckAndReserveRequest:
    """A request of this kind, without an id."""
    return quota.CheckAndReserveRequest(
        policy=plan.mix.policy,
        tenant=tenant,
        action=entry.action,
        scope=scope,
        amounts={meter: units.draw(chance) for meter, units in entry.amounts.items()},
        items=[
            quota.Item(
                id=f"i{place}",
                product=item.product,
                quantity={meter: units.draw(chance) for meter, units in item.quantity.items()},
            )
            for place, item in enumerate(entry.items)
        ],
    )


def settle_of(plan: LoadPlan, hold: Hold, parts: int) -> quota.SettleRequest:
    """The final report of a hold; of all its parts, one that names nothing."""
    request = quota.SettleRequest(policy=plan.mix.policy, tenant=hold.tenant, hold_id=hold.hold_id)
    if parts < PARTS:
        request.fraction.delivered = parts
        request.fraction.reserved = PARTS
    return request


def release_of(plan: LoadPlan, hold: Hold) -> quota.ReleaseRequest:
    """The end of a hold of which nothing was delivered."""
    return quota.ReleaseRequest(policy=plan.mix.policy, tenant=hold.tenant, hold_id=hold.hold_id)


def _one_of(choices: tuple[str, ...], chance: Random) -> str:
    return choices[0] if len(choices) == 1 else choices[int(chance.random() * len(choices))]
