"""The standard decision: who asks, what for, and how its hold is settled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quota.v1 import quota_service_pb2 as quota

from server.domain.operation import Operation, TenantRef

POLICY: Final = "standard"
PLAN: Final = "paid"
ACTION: Final = "chat"
SCOPE: Final[Mapping[str, str]] = {"project": "prj_42"}
ASKED: Final[Mapping[str, int]] = {"tokens": 1500, "credits": 20}
DELIVERED: Final[Mapping[str, int]] = {"tokens": 1123, "credits": 15}
"""Less than was asked for, so that a settle gives something back."""

_ID: Final = "01jd{:022d}"
"""Ids as long as a ULID: 26 characters."""

TAKEN: Final[Mapping[str, int]] = {"requests": 1, "tokens": 1500, "project-requests": 1, "jobs": 1, "credits": 20}
"""What one request takes of each limit, by the limit's id."""
BALANCE: Final = "credits"
"""The limit whose value is what the account was given, and no override."""


class WrongAnswer(Exception):
    """A measured operation was not answered as it must be, so that its cost says nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, which is settled under the same id."""

    tenant: str
    request_id: str

    def operation(self) -> Operation:
        """The request, as the gate takes it."""
        return Operation(
            ref=self.ref, action=ACTION, request_id=self.request_id, scope=dict(SCOPE), amounts=dict(ASKED)
        )

    @property
    def ref(self) -> TenantRef:
        """Whose it is."""
        return ref_of(self.tenant)

    def reserve(self) -> quota.CheckAndReserveRequest:
        """The request, as it travels."""
        return quota.CheckAndReserveRequest(
            policy=POLICY,
            tenant=self.tenant,
            request_id=self.request_id,
            action=ACTION,
            scope=SCOPE,
            amounts=ASKED,
        )

    def settle(self) -> quota.SettleRequest:
        """The end of its hold, as it travels."""
        return quota.SettleRequest(
            policy=POLICY, tenant=self.tenant, hold_id=self.request_id, usage=quota.Usage(used=DELIVERED)
        )


class Asking:
    """Asks for the tenants in turn, each time with a new id."""

    def __init__(self, tenants: Sequence[str]) -> None:
        self._tenants = tenants
        self._made = 0

    def take(self, number: int) -> list[Ask]:
        """The next ones."""
        return [self.ask(self._tenants[self._made % len(self._tenants)]) for _ in range(number)]

    def ask(self, tenant: str) -> Ask:
        """One for this tenant."""
        self._made += 1
        return Ask(tenant, _ID.format(self._made))


def ref_of(tenant: str) -> TenantRef:
    """The tenant, by name."""
    return TenantRef(POLICY, tenant)


def tenants(number: int, *, first: int = 0) -> list[str]:
    """Names of so many tenants, from number `first` on."""
    return [f"org_{index:010d}" for index in range(first, first + number)]
