"""What a gate knows of the time while the store, whose clock decides, is gone."""

from typing import Final

import pytest

from server.domain.account import Account, Override
from server.domain.errors import StoreUnavailableError
from server.domain.operation import Operation, TenantRef
from server.engine.base import AccountWrite
from server.engine.client import StoreConnection
from server.engine.fallback_engine import FallbackEngine
from server.engine.guarded_store import GuardedStore
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.policies_for_tests import HOUR_MS, policy, slots, window
from tests.stores import running_store
from tests.tenants import WITHIN_S

ACME: Final = TenantRef("lab", "acme")


def asked(request_id: str) -> Operation:
    return Operation(ref=ACME, action="work", request_id=request_id)


async def test_an_override_that_has_ended_is_none_again_because_a_hold_is_renewed() -> None:
    """The share of what the plan allows is one request; of the override it would be many."""
    with running_store("--appendonly", "yes") as store:
        connection = StoreConnection(store.url)
        await connection.connect()
        guard = GuardedStore(connection)
        engine = FallbackEngine(guard, share=0.1)
        try:
            now_ms = (await engine.find(ACME, "", WITHIN_S)).now_ms
            ended = Override("rpm", 1000, expires_at_ms=now_ms - HOUR_MS)
            account = Account(plan="free", overrides=(ended,), version=1)
            await engine.write_account(ACME, AccountWrite(account=account), WITHIN_S)
            rules = policy(window("rpm", 10), slots("jobs", 100))
            gate = QuotaGate(PolicyStore((), KnobSource(), {rules.name: rules}), engine)
            assert (await gate.check_and_reserve(asked("before"), within_s=WITHIN_S)).granted
            store.kill()
            while not guard.is_open:
                with pytest.raises(StoreUnavailableError):
                    await engine.find(TenantRef("lab", "somebody"), "", 0.2)

            assert (await gate.check_and_reserve(asked("first"), within_s=WITHIN_S)).degraded
            await gate.extend(ACME, "first", {}, {}, within_s=WITHIN_S)
            with pytest.raises(StoreUnavailableError, match="is used up"):
                await gate.check_and_reserve(asked("second"), within_s=WITHIN_S)
        finally:
            await engine.close()
