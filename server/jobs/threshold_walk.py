"""Looks at every tenant of a policy whose allowances or thresholds were changed: a lower allowance may be reached by
tenants of which nothing is heard any more, as everything that they ask for is refused.
"""

import asyncio
from hashlib import sha256
from typing import Final
from uuid import uuid4

from server.domain.errors import CorruptStateError
from server.domain.limits import Quota
from server.domain.policy import Policy
from server.engine.base import Engine
from server.jobs.periodic import Periodic
from server.logs import log
from server.policy.store import PolicyStore

INTERVAL_S: Final = 2.0
"""How soon a change is found. While there is none, the store is asked nothing."""

PAUSE_S: Final = 0.05
"""Between two pages of a walk, so that it takes a small part of the store's time."""

CLAIM_MS: Final = 30_000
"""For how long a process that died keeps others from walking."""

_WITHIN_S: Final = 10.0


class ThresholdWalk(Periodic):
    """One per process."""

    def __init__(self, engine: Engine, policies: PolicyStore) -> None:
        super().__init__("thresholds", self.look, INTERVAL_S)
        self._engine = engine
        self._policies = policies
        self._owner = uuid4().hex
        self._seen: dict[str, str] = {}

    async def look(self) -> None:
        """Walks for each policy whose terms nobody has walked for; another process may be about it."""
        for name in self._policies.names:
            terms = terms_of(self._policies.get(name))
            if not terms or self._seen.get(name) == terms:
                continue
            walks = self._engine.walks
            if await walks.walked(name, _WITHIN_S) == terms or (
                await walks.claim(name, self._owner, CLAIM_MS, _WITHIN_S) and await self._walk(name, terms)
            ):
                self._seen[name] = terms

    async def _walk(self, name: str, terms: str) -> bool:
        """Looks at all tenants; False where the policy was changed again, or somebody else walks by now."""
        walks, cursor, looked = self._engine.walks, "", 0
        while True:
            refs, cursor = await walks.tenants(name, cursor, _WITHIN_S)
            for ref in refs:
                try:
                    await self._engine.books.note_thresholds(ref, _WITHIN_S)
                except CorruptStateError as error:
                    log.error("thresholds.corrupt", policy=ref.policy, tenant=ref.tenant, error=error.message)
            looked += len(refs)
            if name not in self._policies.names or terms_of(self._policies.get(name)) != terms:
                return False
            if not cursor:
                break
            if not await walks.claim(name, self._owner, CLAIM_MS, _WITHIN_S):
                return False
            await asyncio.sleep(PAUSE_S)
        await walks.finish(name, terms, _WITHIN_S)
        log.info("thresholds.looked_at", policy=name, tenants=looked)
        return True


def terms_of(policy: Policy) -> str:
    """What tells terms of a policy's thresholds apart; empty where it has none."""
    watched = [limit for limit in policy.limits if isinstance(limit, Quota) and limit.thresholds]
    if not watched:
        return ""
    content = [
        (limit.cell, limit.values.constant, sorted((limit.values.by_plan or {}).items()), limit.thresholds)
        for limit in watched
    ]
    ladder = policy.tiers and (policy.tiers.plans, policy.tiers.from_usd_micros)
    return sha256(repr((content, ladder, policy.default_plan)).encode()).hexdigest()[:16]
