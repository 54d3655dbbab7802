"""Samples of accounts whose plan is a tier."""

from typing import Final

from server.domain.account import Account, TierOverride
from server.domain.operation import TenantRef
from server.domain.sampling import Sample
from server.engine.base import AccountWrite
from server.engine.memory_engine import MemoryEngine
from server.gate import QuotaGate
from server.metering import Metering
from server.policy.compiler import compile_text
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.policies_for_tests import HOUR_MS
from tests.tenants import START_MS, WITHIN_S, Clock

ACME: Final = TenantRef("lab", "acme")
LAB: Final = """
policy: lab
tenant: org
meters: {tokens: {sampled: amount}}
tiers: {low: $0, high: $5}
actions: {work: {}}
limits:
  - {id: month, kind: quota, meter: tokens, limit: {low: 100, high: 1000}, thresholds: [80], refuse: used_up}
refusals:
  used_up: {http: 402, message: The month is used up.}
"""


async def test_a_tier_that_was_given_until_yesterday_tells_of_no_threshold_any_more() -> None:
    """90 tokens are beyond 80 percent of what the account's own tier has."""
    rules = compile_text(LAB, "lab", {})
    policies = PolicyStore((), KnobSource(), {rules.name: rules})
    engine = MemoryEngine(Clock(), refills=policies.refills, queues=policies.queues, looks=policies.looks)
    given = TierOverride("high", expires_at_ms=START_MS - HOUR_MS)
    account = Account(plan="", created_at_ms=START_MS, tier_override=given, version=1)
    await engine.write_account(ACME, AccountWrite(account=account), WITHIN_S)

    sample = Sample("tokens", {}, START_MS, sample_id="s-1", units=90)
    await Metering(engine, QuotaGate(policies, engine)).record("lab", [("acme", sample)], within_s=WITHIN_S)

    (note,) = await engine.notes(ACME, "", 10, WITHIN_S)
    assert (note.percent, note.limit, note.used) == (80, 100, 90)
