"""An estimate and a reserve of the same plan agree on the price, whatever the plan."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from server.domain.account import Account
from server.domain.operation import Item, Operation, TenantRef
from server.engine.base import AccountWrite
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.stores import ROOT
from tests.tenants import WITHIN_S, Clock

REF: Final = TenantRef("credit-gate", "a1")
METERS: Final = {
    "v-fast": ("video_ms",),
    "v-pro": ("video_ms",),
    "v-cinema": ("video_ms",),
    "voice": ("voice_ms", "characters"),
    "music": ("music_ms",),
    "still": ("images",),
}

items = st.sampled_from(sorted(METERS)).flatmap(
    lambda product: st.builds(
        lambda meter, units, reused: (product, {meter: units}, reused),
        st.sampled_from(METERS[product]),
        st.integers(1, 20_000),
        st.booleans(),
    )
)


@given(st.lists(items, min_size=1, max_size=8))
async def test_estimate_and_reserve_agree_on_the_price(drawn: list[tuple[str, dict[str, int], bool]]) -> None:
    policies = PolicyStore.load((ROOT / "policies" / "credit-gate.yaml",), KnobSource({}, None))
    engine = MemoryEngine(Clock(), refills=policies.refills)
    gate = QuotaGate(policies, engine)
    await engine.write_account(REF, AccountWrite(account=Account(plan="studio", version=1)), WITHIN_S)
    plan = tuple(Item(str(n), product, quantity, reused) for n, (product, quantity, reused) in enumerate(drawn))
    operation = Operation(ref=REF, action="create_render", request_id="r", items=plan)

    estimate, prices = await gate.estimate(operation, within_s=WITHIN_S)
    decision = await gate.check_and_reserve(operation, within_s=WITHIN_S)

    assert decision.amounts == estimate.amounts
    assert decision.granted is estimate.granted
    for meter in ("credits", "usd_micros"):
        assert sum(price.get(meter, 0) for _, price in prices) == decision.amounts.get(meter, 0)
