"""As much as fits: never more than there is, never less than could be had, whoever else asks at the same time."""

import asyncio
from collections.abc import Callable
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from server import best_effort
from server.domain.account import Account
from server.domain.decision import Decision
from server.domain.limits.base import Limit
from server.domain.operation import Flexible, Operation, TenantRef
from server.domain.policy import Policy
from server.engine.base import AccountWrite, Engine
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.policies_for_tests import balance, policy, quota, slots, window
from tests.tenants import WITHIN_S, Clock, Tenant

REF: Final = TenantRef("lab", "acme")
LIMITS: Final[tuple[Limit, ...]] = (
    window("tpm", 100, "tokens"),
    quota("monthly", 80, "tokens", overage=15),
    balance("purse", "tokens"),
    slots("pool", 90, "tokens"),
)
amounts = st.integers(min_value=0, max_value=120)


def gate_of(engine: Engine, rules: Policy) -> QuotaGate:
    return QuotaGate(PolicyStore((), KnobSource(), {rules.name: rules}), engine)


def asking(tokens: int, minimum: int, request_id: str = "") -> Operation:
    flexible = Flexible("tokens", minimum) if minimum else None
    return Operation(REF, "work", request_id, amounts={"tokens": tokens}, flexible=flexible)


async def opened(rules: Policy, used: int) -> QuotaGate:
    engine = MemoryEngine(Clock())
    cells = {limit.cell: 110 for limit in rules.limits if limit.kind.name == "BALANCE"}
    await engine.write_account(REF, AccountWrite(account=Account(plan="free", version=1), grants=cells), WITHIN_S)
    gate = gate_of(engine, rules)
    await gate.check_and_reserve(asking(used, 0), within_s=WITHIN_S)
    return gate


async def best(gate: QuotaGate, wanted: int, minimum: int) -> Decision:
    return await best_effort.check_and_reserve(gate, asking(wanted, minimum), within_s=WITHIN_S)


@given(st.sets(st.integers(0, len(LIMITS) - 1), min_size=1), amounts, amounts.filter(bool), st.integers(1, 120))
async def test_it_is_the_most_that_all_or_nothing_would_grant(
    places: set[int], used: int, wanted: int, minimum: int
) -> None:
    rules = policy(*(LIMITS[place] for place in places))
    minimum = min(minimum, wanted)

    decision = await best(await opened(rules, used), wanted, minimum)

    granted = decision.amounts["tokens"] if decision.granted else minimum - 1
    assert not decision.granted or minimum <= granted <= wanted
    for tokens, fits in ((granted, decision.granted), (granted + 1, False)):
        if minimum <= tokens <= wanted:
            whole = await (await opened(rules, used)).check_and_reserve(asking(tokens, 0), within_s=WITHIN_S)
            assert whole.granted == fits, tokens


async def test_many_at_once_share_what_there_is(tenant: Callable[[Policy], Tenant]) -> None:
    lab = tenant(policy(window("tpm", 1000, "tokens")))
    gate = gate_of(lab.engine, lab.policy)

    def ask(number: int) -> Operation:
        return asking(300, 10, f"r{number}")._replace(ref=lab.ref, scope={})

    decisions = await asyncio.gather(
        *(best_effort.check_and_reserve(gate, ask(n), within_s=WITHIN_S) for n in range(30))
    )

    granted = [decision.amounts["tokens"] for decision in decisions if decision.granted]
    assert all(10 <= tokens <= 300 for tokens in granted)
    assert 990 < sum(granted) <= 1000
    again = await best_effort.check_and_reserve(gate, ask(0), within_s=WITHIN_S)
    assert again.replayed == decisions[0].granted
    assert not again.replayed or again.amounts == decisions[0].amounts
