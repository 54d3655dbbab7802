"""What every operation of the simulation has: how it is drawn, and how it is asked of an engine."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self

from server.domain.account import Account
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan
from server.domain.policy import Policy
from server.domain.queue import Ticket
from server.engine.base import Engine

Ask = Callable[[Engine], Awaitable[Any]]

TENANTS: Final = ("one", "t{wo}/2")
SCOPES: Final = ({"project": "p", "model": "m"}, {"project": "q 1", "model": "m"}, {"project": "p", "model": "n"})
MOST_UNITS: Final = 12
MOST_READ: Final = 10_000
METERS: Final = ("tokens", "credits", "frames", "requests")


class Facts(Protocol):
    """What is known when an operation is asked."""

    policy: Policy

    def now_ms(self) -> int:
        """The caller's time, which is the store's."""

    def account(self, tenant: str, behind: int) -> Account:
        """The tenant's account, so many versions ago."""


class Named(NamedTuple):
    """A hold as it was asked for, granted or not."""

    tenant: str
    hold_id: str
    meters: Sequence[str]
    scope: int
    action: str = "work"
    amounts: Mapping[str, int] = MappingProxyType({})
    ticket: Ticket = Ticket(30_000)


@dataclass
class Drawn:
    """What was drawn before in the same episode."""

    random: Random
    holds: list[Named] = field(default_factory=list)
    writes: dict[str, int] = field(default_factory=dict)

    def tenant(self) -> str:
        return TENANTS[self.random.random() < 0.25]

    def some_hold(self) -> Named:
        """One of the last few, most likely one that has not ended; rarely with another tenant's name."""
        if not self.holds:
            return Named(TENANTS[0], "h0", METERS[:1], 0)
        back = min(int(self.random.expovariate(0.25)), len(self.holds) - 1)
        known = self.holds[-1 - back]
        return known if self.random.random() < 0.98 else known._replace(tenant=self.tenant())

    def ticket(self) -> Ticket:
        """How a place in a queue would be kept: by whoever repeats the request, or by an open call of a process."""
        if self.random.random() < 0.5:
            return Ticket(30_000)
        return Ticket(5000, f"{self.random.choice(('ab', 'cd'))}.{self.random.randrange(3)}")

    def write_id(self, kind: str) -> str:
        """A new one, or sometimes one that was used before."""
        if self.random.random() < 0.85 or kind not in self.writes:
            self.writes[kind] = self.writes.get(kind, 0) + 1
        return f"{kind}{self.writes[kind]}"

    def allocation(self) -> str:
        """A name that a caller gives to what stands; soon used again."""
        return f"p{self.random.randrange(6)}"

    def amounts(self, meters: Sequence[str] = METERS, most: int = MOST_UNITS) -> dict[str, int]:
        """Units for some of these meters; rarely for one that is not among them."""
        if not meters or self.random.random() < 0.03:
            meters = METERS
        chosen = self.random.sample(meters, self.random.randint(1, min(3, len(meters))))
        return {meter: self.random.randint(0, most) for meter in chosen}


@dataclass(frozen=True)
class Asked:
    """One operation of a caller."""

    tenant: str
    script: ClassVar[str] = ""
    """The script that decides it; empty where plain commands are enough."""

    @property
    def ref(self) -> TenantRef:
        return TenantRef("lab", self.tenant)

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        """One of its kind."""
        raise NotImplementedError

    def question(self, facts: Facts) -> Ask:
        """The call of an engine that it comes to now."""
        raise NotImplementedError

    def told(self, answer: Any) -> Any:  # noqa: ANN401  # whatever engines answer
        """An answer as all engines must give it."""
        return answer

    def plan(  # noqa: PLR0913  # what a request is made of
        self,
        facts: Facts,
        scope: int,
        amounts: Mapping[str, int],
        behind: int,
        *,
        action: str = "work",
        hold_id: str = "",
    ) -> Plan:
        """The plan of a request, by the account as it was so many versions ago."""
        operation = Operation(ref=self.ref, action=action, scope=SCOPES[scope], amounts=amounts, request_id=hold_id)
        return make_plan(facts.policy, operation, facts.account(self.tenant, behind), facts.now_ms())
