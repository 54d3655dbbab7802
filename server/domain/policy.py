"""A policy as compiled: one immutable snapshot that decides until the next one replaces it whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from server.domain.catalog import Catalog
from server.domain.limits.base import Limit
from server.domain.limits.quota import Quota
from server.domain.limits.slots import Slots
from server.domain.templates import Template
from server.domain.tiers import Tiers

ACTION: Final = "action"
"""What a policy calls the action where a dimension may stand."""


class Unit(StrEnum):
    """How people write a meter's amounts in a policy; the base unit is always an integer."""

    COUNT = "count"
    DURATION = "duration"
    MONEY = "money"


@dataclass(frozen=True, slots=True)
class Meter:
    """A countable thing. `per_request` units are counted by each request by itself, whatever it asks for."""

    name: str
    unit: Unit = Unit.COUNT
    per_request: int = 0


@dataclass(frozen=True, slots=True)
class Timed:
    """A hold whose time is paid: its first Extend starts it, for as many milliseconds as the request asked for of
    meter `by`. Every Extend charges the share of the hold's units of `charge` that has passed, in begun `per_ms`.
    """

    by: str
    charge: str
    per_ms: int


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """How long what an action takes is kept; all in milliseconds.

    `lease_ms` from a grant or renewal to its end, `longest_ms` from the grant to the end that no renewal
    passes, `tombstone_ms` for an ended hold's record, `replay_ms` for a grant that left nothing to settle. `first_ms`
    is the lease from the grant to the first renewal where that is another one, else 0.
    """

    lease_ms: int = 120_000
    longest_ms: int = 3_600_000
    tombstone_ms: int = 3_600_000
    replay_ms: int = 120_000
    first_ms: int = 0
    timed: Timed | None = None

    @property
    def granted_ms(self) -> int:
        """From the grant to the lease's first end."""
        return self.first_ms or self.lease_ms


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a caller may want to do.

    What is asked for under a `free` action costs nothing. A `priced` one must name what it produces.
    """

    name: str
    hold: HoldTerms = HoldTerms()
    free: bool = False
    priced: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """A price: `charge` units by meter for one block; a block's size is given by each meter that may measure it.

    Where the price depends on the action or on a dimension, `by` names which, and `charges` has a charge for each of
    its values in place of `charge`. Nothing has a price that is not listed.
    """

    name: str
    block: Mapping[str, int]
    charge: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    by: str = ""
    charges: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    def charge_for(self, action: str, scope: Mapping[str, str]) -> Mapping[str, int] | None:
        """The charge for one block in a request for this action with these dimensions; None if it has no price."""
        if not self.by:
            return self.charge
        return self.charges.get(action if self.by == ACTION else scope.get(self.by, ""))


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """What callers are told when the limits with this code block."""

    code: str
    http_status: int
    retryable: bool
    message: Template
    fields: Mapping[str, Template]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The system's own HTTP form. `body` is a JSON object whose leaves are templates; the key "+" of an object
    stands for the refusal's own fields. `headers` by HTTP status, 200 for a grant. `ratelimit` and `problem` name the
    versions of the standards whose fields are added and whose body takes the place of `body`; empty for neither.
    `rate` is the id of the window that `rate_…` fields tell of, without which a grant has no headers; empty for the
    tightest.
    """

    body: Mapping[str, object]
    headers: Mapping[int, Mapping[str, Template]]
    types: Mapping[int, str]
    ratelimit: str = ""
    problem: str = ""
    rate: str = ""

    @property
    def tells_grants(self) -> bool:
        """Whether a grant has headers."""
        return bool(self.ratelimit) or 200 in self.headers  # noqa: PLR2004  # the status of grants


@dataclass(frozen=True, slots=True)
class Policy:
    """One system's rules. `version` is the hash of its text and of the settings that it read.

    `known_values` are all that a dimension may have, where that is said; `usual` is the product and its quantity that
    an action is about when a request names nothing; `totals` are figures for show: the largest of some limits' values.
    """

    name: str
    version: str
    text: str
    tenant: str
    meters: Mapping[str, Meter]
    plans: tuple[str, ...]
    default_plan: str | None
    dimensions: frozenset[str]
    actions: Mapping[str, Action]
    limits: tuple[Limit, ...]
    products: Mapping[str, Product]
    refusals: Mapping[str, RefusalRule]
    precedence: tuple[str, ...]
    envelope: Envelope | None
    tiers: Tiers | None = None
    catalog: Catalog | None = None
    known_values: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    usual: Mapping[str, tuple[str, Mapping[str, int]]] = field(default_factory=lambda: MappingProxyType({}))
    totals: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    anchor_zones: tuple[tzinfo, ...] = field(init=False, default=())
    """The time zones of those quotas whose cycles begin on the day of an account's creation."""
    queue_cells: tuple[str, ...] = field(init=False, default=())
    """The cells of pools with queues."""
    is_timed: bool = field(init=False, default=False)
    """Whether the time of some action's holds is paid."""

    def resolved(self, scope: Mapping[str, str]) -> Mapping[str, str]:
        """A request's dimensions with what the catalog makes of them."""
        return scope if self.catalog is None else self.catalog.resolved(scope)

    def __post_init__(self) -> None:
        """Finds the zones, once for all requests."""
        anchored = dict.fromkeys(limit.zone for limit in self.limits if isinstance(limit, Quota) and limit.anchored)
        object.__setattr__(self, "anchor_zones", tuple(anchored))
        queues = [limit.cell for limit in self.limits if isinstance(limit, Slots) and limit.queue is not None]
        object.__setattr__(self, "queue_cells", tuple(queues))
        object.__setattr__(self, "is_timed", any(action.hold.timed is not None for action in self.actions.values()))
