"""Bugs of peers in admitting, that no other test has under its name (`rows.yaml`)."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Final

import pytest

from server.domain.account import Account, TierOverride
from server.domain.errors import AccountNotFoundError, InvalidRequestError
from server.domain.limits import Gate, Limit
from server.domain.limits.base import QUEUES
from server.domain.limits.slots import Queue
from server.domain.operation import Item, Operation, TenantRef
from server.domain.policy import Policy, Product
from server.domain.queue import Ticket
from server.domain.units import FOREVER_MS
from server.engine.base import AccountWrite, Engine, Granted, Queued
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from server.settings import from_flags
from tests.policies_for_tests import HOUR_MS, TERMS, balance, only_for, policy, slots, window
from tests.tenants import WITHIN_S, Clock, Tenant

MakeTenant = Callable[[Policy], Tenant]

SHIPPED: Final = PolicyStore.load(from_flags({}).policies, KnobSource({}, None))
"""What a server serves that is told nothing."""

NOBODY: Final = TenantRef("", "")

BY_SIZE: Final = Product(
    "clip", block={"frames": 1}, by="model", charges={"small": {"credits": 5}, "large": {"credits": 20}}
)


async def test_rich_balance_still_holds(tenant: MakeTenant) -> None:
    """However rich an account is, a grant leaves its hold: nothing is let through unbooked."""
    lab = tenant(policy(window("rpm", 5), balance("credits")))
    await lab.open(credits=10**15)

    await lab.grant("h", credits=3)

    assert (await lab.hold("h")).meters["credits"].reserved == 3
    assert (await lab.figures())["credits"].held == 3
    assert (await lab.figures())["rpm"].used == 1


async def test_abandon_loop_bounded(tenant: MakeTenant) -> None:
    """Who reserves and walks away again and again holds no more than the limit, and all comes back with the leases."""
    lab = tenant(policy(slots("jobs", 4), balance("credits")))
    await lab.open(credits=100)
    for number in range(60):
        answer = await lab.reserve(lab.plan(f"h{number}", credits=10))
        figures = await lab.figures()
        assert figures["jobs"].used <= 4, answer
        assert figures["credits"].held <= 40
        lab.clock.advance(TERMS.lease_ms // 50)

    lab.clock.advance(TERMS.lease_ms)
    figures = await lab.figures()
    assert (figures["jobs"].used, figures["credits"].held, figures["credits"].cap) == (0, 0, 100)


async def test_price_tier_in_estimate(engine: Engine) -> None:
    """Five calls at the dear tier of a price, and funds for two: the holds of the calls stay below the funds."""
    rules = policy(balance("purse"), products=[BY_SIZE])
    gate = QuotaGate(PolicyStore((), KnobSource(), {rules.name: rules}), engine)
    lab = Tenant(engine, Clock(), rules)
    await lab.open(purse=45)

    def clip(number: int, model: str) -> Operation:
        items = (Item("one", "clip", {"frames": 1}),)
        return Operation(lab.ref, "work", f"h{number}", {"model": model}, items=items)

    estimate, _ = await gate.estimate(clip(0, "large"), within_s=WITHIN_S)
    decisions = [await gate.check_and_reserve(clip(n, "large"), within_s=WITHIN_S) for n in range(5)]

    assert estimate.amounts["credits"] == 20
    assert [decision.granted for decision in decisions] == [True, True, False, False, False]
    assert (await lab.figures())["purse"].held == 40
    assert (await gate.check_and_reserve(clip(5, "small"), within_s=WITHIN_S)).granted


async def test_who_has_no_account_or_a_plan_that_is_gone_gets_nothing(engine: Engine) -> None:
    """An error of its own, whatever is asked for and however little; nothing is taken or remembered."""
    rules = replace(policy(window("rpm", 5)), default_plan=None)
    gate = QuotaGate(PolicyStore((), KnobSource(), {rules.name: rules}), engine)
    lab = Tenant(engine, Clock(), rules)

    async def gets_nothing() -> None:
        for amounts in ({}, {"tokens": 1}):
            with pytest.raises(AccountNotFoundError):
                await gate.check_and_reserve(Operation(lab.ref, "work", "h", amounts=amounts), within_s=WITHIN_S)
        assert (await lab.find("h")).hold is None

    await gets_nothing()
    await lab.open(plan="gone")
    await gets_nothing()


async def test_duplicate_state_merged(tenant: MakeTenant) -> None:
    """Pools that share their places: the smaller of them counts, a place that is taken is taken once, and from both."""
    shared = ("images~s", "videos~s")
    queue = Queue(times=1, ticket_ms=HOUR_MS, joined={"pro": shared})
    pools = {"images": ({"free": 9, "pro": 3}, "work"), "videos": ({"free": 9, "pro": 2}, "rest")}
    lab = tenant(
        policy(
            *(
                only_for(slots(name, cap, typical_ms=15_000, queue=queue), action)
                for name, (cap, action) in pools.items()
            )
        )
    )
    await lab.open(plan="pro")

    async def ask(hold_id: str, action: str) -> object:
        return await lab.engine.reserve(lab.plan(hold_id, action=action), hold_id, WITHIN_S, Ticket(HOUR_MS))

    assert [type(await ask(f"h{n}", "work")) for n in range(3)] == [Granted, Granted, Queued]
    waits = await ask("v", "rest")
    assert isinstance(waits, Queued)
    assert [(look.used, look.cap, look.wait_ms) for look in waits.looks] == [(2, 2, QUEUES)]
    await lab.release("h0")
    assert [look.used for look in (await lab.figures()).values()] == [2, 2]


def asks(rules: Policy, limit: Limit) -> Iterator[Operation]:
    """Requests for what the limit's policy knows, of which one at least should fall under the limit."""
    catalog = (
        sorted({entry[rules.catalog.dimension] for entry in rules.catalog.entries.values()}) if rules.catalog else []
    )
    named = [limit.meter] if limit.meter and not rules.meters[limit.meter].per_request else []
    things: list[tuple[Item, ...]] = [
        (Item("one", name, {min(priced.block): 1}),) for name, priced in sorted(rules.products.items())
    ]
    for action, every in product(sorted(limit.actions or rules.actions), (False, True)):
        scoped = sorted(rules.dimensions) if every else limit.scope
        values = {name: sorted(rules.known_values.get(name, ["any"])) for name in scoped}
        values |= {name: sorted(allowed) for name, allowed in limit.when.items()}
        if rules.catalog is not None and action in rules.catalog.closed:
            values[rules.catalog.dimension] = catalog
        if isinstance(limit, Gate) and limit.allow is not None:
            values[limit.of] = [value for allowed in limit.allow.values() for value in allowed]
        for drawn in product(*values.values()):
            scope = dict(zip(values, drawn, strict=True))
            for items in [(), *things]:
                yield Operation(NOBODY, action, "r", scope, {} if items else dict.fromkeys(named, 1), items)


async def reaches(rules: Policy, limit: Limit) -> bool:
    """Whether a call, on some plan, is told of the limit."""
    engine = MemoryEngine(Clock())
    gate = QuotaGate(SHIPPED, engine)
    for plan in rules.plans:
        ref = TenantRef(rules.name, plan)
        tier = TierOverride(plan, FOREVER_MS) if rules.tiers else None
        account = Account("" if tier else plan, version=1, tier_override=tier)
        await engine.write_account(ref, AccountWrite(account=account), WITHIN_S)
        for operation in asks(rules, limit):
            with suppress(InvalidRequestError):
                decision, _ = await gate.estimate(operation.of(ref), within_s=WITHIN_S)
                if limit.id in {result.limit.id for result in decision.results}:
                    return True
    return False


@pytest.mark.parametrize("name", SHIPPED.names)
async def test_limiter_is_wired(name: str) -> None:
    """As a server serves it that is told nothing: each limit of each policy is met by some call. RecordUsage brings
    what is measured by samples to its limits (tests/scenarios/kisenon.yaml).
    """
    rules = SHIPPED.get(name)
    asked_for = [limit for limit in rules.limits if not limit.meter or rules.meters[limit.meter].sampling is None]
    assert asked_for
    assert [limit.id for limit in asked_for if not await reaches(rules, limit)] == []
