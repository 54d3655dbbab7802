"""One id, one effect: what callers get for a repeated request, through the gate, on every engine."""

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from server.domain.decision import Decision
from server.domain.errors import IdReusedError, InvalidRequestError
from server.domain.operation import Operation
from server.domain.policy import Policy
from server.engine.base import Engine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.policies_for_tests import TERMS, balance, guard, policy, slots, window
from tests.tenants import WITHIN_S, Clock, Tenant

LAB: Final = policy(window("rpm", 2), slots("jobs", 2), balance("credits"), guard("size", 50, "tokens"))
AMOUNTS: Final[Mapping[str, int]] = {"credits": 10, "tokens": 5}


class Gateway:
    """A caller of the gate, as tenant `acme` with 100 credits."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.tenant = Tenant(engine, clock, LAB)
        self.gate = self.gate_for(LAB)

    def gate_for(self, decided_by: Policy) -> QuotaGate:
        return QuotaGate(PolicyStore((), KnobSource(), {decided_by.name: decided_by}), self.tenant.engine)

    async def ask(
        self, request_id: str = "r", *, action: str = "work", project: str = "p", amounts: Mapping[str, int] = AMOUNTS
    ) -> Decision:
        operation = Operation(
            ref=self.tenant.ref, action=action, request_id=request_id, scope={"project": project}, amounts=amounts
        )
        return await self.gate.check_and_reserve(operation, within_s=WITHIN_S)


@pytest.fixture
async def gateway(engine: Engine, clock: Clock) -> Gateway:
    gateway = Gateway(engine, clock)
    await gateway.tenant.open(credits=100)
    return gateway


async def test_same_id_and_content_gets_the_first_answer_again(gateway: Gateway) -> None:
    first = await gateway.ask()
    gateway.tenant.clock.advance(1000)

    again = await gateway.ask()

    assert (first.replayed, again.replayed) == (False, True)
    assert first.granted
    assert again.granted
    assert list(again.results) == list(first.results)
    assert again.amounts == first.amounts
    assert first.lease is not None
    assert again.lease is not None
    assert (first.lease.expires_in_ms, again.lease.expires_in_ms) == (TERMS.lease_ms, TERMS.lease_ms - 1000)


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"action": "rest"}, "action"),
        ({"project": "q"}, "scope"),
        ({"amounts": {"credits": 11, "tokens": 5}}, "amounts"),
        ({"amounts": {"credits": 10}}, "amounts"),
        ({"amounts": {"credits": 10, "tokens": 51}}, "amounts"),
        ({"action": "rest", "amounts": {}}, "action, amounts"),
    ],
)
async def test_same_id_other_payload_conflicts(changed: Mapping[str, object], differs: str, gateway: Gateway) -> None:
    """The error names what differs, and nothing moved; also where a guard would refuse the other content."""
    await gateway.ask()
    before = await gateway.tenant.figures()

    with pytest.raises(IdReusedError) as error:
        await gateway.ask(**changed)  # type: ignore[arg-type]  # keywords of ask

    assert error.value.metadata == {"differs": differs}
    assert await gateway.tenant.figures() == before


async def test_a_replay_passes_a_guard_that_has_become_narrower(gateway: Gateway) -> None:
    """A guard looks the caller's id up before it refuses."""
    await gateway.ask()
    gateway.gate = gateway.gate_for(policy(guard("size", 1, "tokens"), *LAB.limits[:3]))

    again = await gateway.ask()
    refused = await gateway.ask("another id")

    assert (again.granted, again.replayed, list(again.results)) == (True, True, [])
    assert not refused.granted
    assert [result.limit.id for result in refused.results] == ["size"]


async def test_another_mode_is_other_content(gateway: Gateway) -> None:
    await gateway.ask()
    peek = Operation(
        ref=gateway.tenant.ref, action="work", request_id="r", scope={"project": "p"}, amounts=AMOUNTS, check_only=True
    )
    asked = Operation(ref=gateway.tenant.ref, action="work", request_id="r", scope={"project": "p"}, amounts=AMOUNTS)

    assert (await gateway.gate.check_and_reserve(peek, within_s=WITHIN_S)).lease is None
    assert peek.fingerprint() != asked.fingerprint()


async def test_ids_made_by_the_server_are_all_different(gateway: Gateway) -> None:
    leases = [(await gateway.ask("")).lease for _ in range(2)]

    assert len({lease.hold_id for lease in leases if lease is not None}) == 2


@pytest.mark.parametrize("absurd", [-1, 2**53, 10**30])
async def test_absurd_usage_clamped(absurd: int, gateway: Gateway) -> None:
    """Refused at the edge, with the field named; nothing was taken, charged or renewed."""
    await gateway.ask()
    before, hold = await gateway.tenant.figures(), await gateway.tenant.hold("r")
    ref = gateway.tenant.ref

    for call in (
        gateway.gate.settle(ref, "r", {"credits": absurd}, final=True, within_s=WITHIN_S),
        gateway.gate.extend(ref, "r", {"credits": absurd}, {}, within_s=WITHIN_S),
        gateway.gate.extend(ref, "r", {}, {"credits": absurd}, within_s=WITHIN_S),
        gateway.ask("new", amounts={"credits": absurd}),
    ):
        with pytest.raises(InvalidRequestError) as error:
            await call
        assert "credits" in error.value.violations[0].field

    assert await gateway.tenant.figures() == before
    assert await gateway.tenant.hold("r") == hold


async def test_a_topup_shows_at_the_very_next_call(gateway: Gateway, tenant: Callable[[Policy], Tenant]) -> None:
    """Another process changed the account: this one's cached plan is found stale and made again."""
    assert not (await gateway.ask("a", amounts={"credits": 101})).granted
    elsewhere = tenant(LAB)
    elsewhere.account = gateway.tenant.account
    await elsewhere.open(plan="pro", credits=1)

    assert (await gateway.ask("a", amounts={"credits": 101})).granted
