"""Holdgate's use cases straight over a store, without a transport: where only the store is measured."""

import asyncio
from collections.abc import Iterable, Mapping

from benchmarks.processes import POLICY
from benchmarks.standard import DELIVERED, PLAN, TAKEN, Ask, WrongAnswer, ref_of
from benchmarks.store_calls import WITHIN_S, Watched, waves
from server.administration import Administration
from server.domain.account import Account
from server.domain.hold import State
from server.engine.redis_engine import RedisEngine
from server.gate import QuotaGate
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore


class Gateway:
    """Asks and settles, `DEPTH` operations at a time. `knobs` are values that the policy reads."""

    def __init__(self, store: Watched, knobs: Mapping[str, str] | None = None) -> None:
        engine = RedisEngine(store)
        policies = PolicyStore.load((POLICY,), KnobSource(knobs or {}))
        self._gate = QuotaGate(policies, engine)
        self._administration = Administration(policies, engine, self._gate)

    async def create(self, tenants: Iterable[str]) -> None:
        """An account with its opening balance for each."""
        for wave in waves(tenants):
            await asyncio.gather(
                *(
                    self._administration.put_account(
                        ref_of(tenant), Account(plan=PLAN), expected_version=0, opening={}, within_s=WITHIN_S
                    )
                    for tenant in wave
                )
            )

    async def reserve(self, asks: Iterable[Ask]) -> None:
        """Asks, and sees that all of it is granted by five limits."""
        for wave in waves(asks):
            decisions = await asyncio.gather(
                *(self._gate.check_and_reserve(ask.operation(), within_s=WITHIN_S) for ask in wave)
            )
            for ask, decision in zip(wave, decisions, strict=True):
                if not decision.granted or decision.replayed or len(decision.results) != len(TAKEN):
                    raise WrongAnswer(f"{ask}: {decision}")

    async def settle(self, asks: Iterable[Ask]) -> None:
        """Settles in part what was granted, and sees that this is done."""
        for wave in waves(asks):
            outcomes = await asyncio.gather(
                *(self._gate.settle(ask.ref, ask.request_id, DELIVERED, final=True, within_s=WITHIN_S) for ask in wave)
            )
            for ask, outcome in zip(wave, outcomes, strict=True):
                if outcome.state is not State.SETTLED or not outcome.applied:
                    raise WrongAnswer(f"{ask}: {outcome}")
