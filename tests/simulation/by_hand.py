"""What operators do in the simulation: resets, adjustments, and a look at the trail that they leave."""

from dataclasses import dataclass
from typing import Any, Self

from server.domain.act import Act, Deed
from server.domain.limit_value import value_of
from server.domain.limits import Balance, Limit, Quota, Window
from server.domain.plan import CheckForm, bare_form, terms_of
from server.engine.hands import Adjustment, Reset
from tests.simulation.asked import MOST_READ, SCOPES, Ask, Asked, Drawn, Facts
from tests.tenants import WITHIN_S


def form_of(limit: Limit, scope: int, facts: Facts, tenant: str, behind: int) -> CheckForm:
    """The limit's cell for one of the scopes, by the account as it was so many versions ago."""
    account, now_ms = facts.account(tenant, behind), facts.now_ms()
    values = tuple(SCOPES[scope][name] for name in limit.scope)
    form = bare_form(limit, values, value_of(limit, account, now_ms).value, terms_of(limit, account, now_ms))
    return form._replace(marks=limit.marks(account.plan)) if isinstance(limit, Balance) else form


@dataclass(frozen=True)
class ResetByHand(Asked):
    """A window or a quota forgets what it has counted."""

    reset_id: str
    place: int
    scope: int
    every: bool
    behind: int
    script = "reset"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        every, behind = random.random() < 0.3, int(random.random() < 0.1)
        return cls(drawn.tenant(), drawn.write_id("reset/"), random.randrange(9), random.randrange(3), every, behind)

    def question(self, facts: Facts) -> Ask:
        limits = [limit for limit in facts.policy.limits if isinstance(limit, Window | Quota)]
        if not limits:
            return lambda engine: engine.find(self.ref, "", WITHIN_S)
        limit = limits[self.place % len(limits)]
        form = form_of(limit, self.scope, facts, self.tenant, self.behind)
        every = self.every and isinstance(limit, Quota)
        reset = Reset(form, facts.account(self.tenant, self.behind).version, every)
        act = Act(Deed.RESET, "ops", "drawn", limit.id, self.reset_id)
        mark = f"{limit.cell} {form.scope} {every}".encode()
        return lambda engine: engine.hands.reset(self.ref, reset, act, mark, WITHIN_S)


@dataclass(frozen=True)
class AdjustByHand(Asked):
    """A quota's use or a balance is changed."""

    adjustment_id: str
    place: int
    scope: int
    units: int
    sets: bool
    behind: int
    script = "adjust"

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        random = drawn.random
        sets, behind = random.random() < 0.3, int(random.random() < 0.1)
        units = random.randint(0 if sets else -30, 30)
        scope = random.randrange(3)
        return cls(drawn.tenant(), drawn.write_id("adjust/"), random.randrange(9), scope, units, sets, behind)

    def question(self, facts: Facts) -> Ask:
        limits = [limit for limit in facts.policy.limits if isinstance(limit, Balance | Quota)]
        if not limits:
            return lambda engine: engine.find(self.ref, "", WITHIN_S)
        limit = limits[self.place % len(limits)]
        form = form_of(limit, self.scope, facts, self.tenant, self.behind)
        sets = self.sets and isinstance(limit, Quota)
        version = facts.account(self.tenant, self.behind).version
        act = Act(Deed.ADJUST, "ops", "drawn", limit.id, self.adjustment_id)
        mark = f"{limit.cell} {form.scope} {self.units} {sets}".encode()
        adjustment = Adjustment(form, version, self.units, sets)
        return lambda engine: engine.hands.adjust(self.ref, adjustment, act, mark, WITHIN_S)


@dataclass(frozen=True)
class ReadTrail(Asked):
    """All that was done to the tenant by hand."""

    @classmethod
    def draw(cls, drawn: Drawn) -> Self:
        return cls(drawn.tenant())

    def question(self, facts: Facts) -> Ask:
        return lambda engine: engine.hands.acts(self.ref, "", MOST_READ, WITHIN_S)

    def told(self, answer: Any) -> Any:  # noqa: ANN401  # lines, or a fault
        """Without the ids of the lines."""
        lines, place = answer
        return [line._replace(line_id="") for line in lines], place
