"""What callers do who wait in front of pools: they ask for their turn, give up, and have their places renewed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from server.domain.queue import Ticket
from server.engine.queues import Renewed
from tests.simulation.asked import Ask, Asked, Drawn, Facts
from tests.tenants import WITHIN_S

MOST_RENEWED = 4


@dataclass(frozen=True)
class TakeTurn(Asked):
    """A request again that waits: it renews its ticket, or claims the place that its turn has brought."""

    hold_id: str
    scope: int
    amounts: Mapping[str, int]
    action: str
    behind: int
    ticket: Ticket | None
    script = "ticket"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        hold, random = drawn.some_hold(), drawn.random
        ticket = random.choice((None, hold.ticket, hold.ticket, drawn.ticket()))
        behind = int(random.random() < 0.1)
        return cls(hold.tenant, hold.hold_id, hold.scope, hold.amounts, hold.action, behind, ticket)

    def question(self, facts: Facts) -> Ask:
        plan = self.plan(facts, self.scope, self.amounts, self.behind, action=self.action, hold_id=self.hold_id)
        return lambda engine: engine.queues.ticket(plan, self.hold_id, self.ticket, WITHIN_S)


@dataclass(frozen=True)
class Leave(Asked):
    """An open call gives its place up, mostly one that it still has."""

    hold_id: str
    owner: str
    script = "release"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        hold = drawn.some_hold()
        owner = hold.ticket.owner if drawn.random.random() < 0.8 else drawn.ticket().owner
        return cls(hold.tenant, hold.hold_id, owner or "ab.0")

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.queues.leave(self.ref, self.hold_id, self.owner, WITHIN_S)


@dataclass(frozen=True)
class Renew(Asked):
    """A process renews the places of its open calls, all of a tenant in one step."""

    hold_ids: tuple[str, ...]
    script = "renew"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        tenant = drawn.some_hold().tenant
        names = {drawn.some_hold().hold_id for _ in range(drawn.random.randint(1, MOST_RENEWED))}
        return cls(tenant, tuple(sorted(names)))

    def question(self, facts: Facts) -> Ask:
        cells = facts.policy.queue_cells
        return lambda engine: engine.queues.renew(self.ref, cells, self.hold_ids, 5000, WITHIN_S)

    def told(self, answer: Any) -> Any:  # noqa: ANN401  # whatever engines answer
        """Without the next due instant, which in the store may also be a change of grants."""
        return answer._replace(next_due_ms=0) if isinstance(answer, Renewed) else answer


@dataclass(frozen=True)
class SeeTo(Asked):
    """What is due at a tenant is done, and free places go to those who wait; `afresh` by the policy as it is now."""

    afresh: bool = False

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant(), drawn.random.random() < 0.5)

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.queues.see_to(self.ref, WITHIN_S, afresh=self.afresh)
