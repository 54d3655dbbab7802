"""What time makes due at a tenant, done by `reap.lua`: ended leases, changes of grants, turns of those who wait; and
thresholds that an allowance which has changed may have reached.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from server.domain.account import Account
from server.domain.operation import TenantRef
from server.domain.queue import TermsOf
from server.domain.refill import RefillTerms
from server.engine import keys, records, wire_money, wire_queues
from server.engine.hearing import BY_CALL, Hearing
from server.engine.pipeline import Heard
from server.engine.replies import unreadable

REAP_ROUNDS: Final = 200
"""Times that one call reaps before it gives up; each round ends 50 holds."""

REAPED_AT_ONCE: Final = 50
"""Holds that one script call ends."""


class CallScript(Protocol):
    """Sends a script."""

    def __call__(
        self, name: str, all_keys: Sequence[bytes], args: Sequence[bytes], within_s: float, *, heard: Heard | None
    ) -> Awaitable[list[Any]]:
        """Its reply; raises a HoldgateError."""


class Reaping:
    """Gives the script the terms that it asks for: of refills, and of queues."""

    def __init__(  # noqa: PLR0913, PLR0917  # parts of the one engine
        self,
        call_script: CallScript,
        hearing: Hearing,
        clock: Callable[[], int],
        refills: RefillTerms,
        queues: TermsOf,
        note_thresholds: Callable[[TenantRef, float], Awaitable[None]],
    ) -> None:
        self._call_script = call_script
        self._hearing = hearing
        self._clock = clock
        self._refills = refills
        self._queues = queues
        self._note_thresholds = note_thresholds

    async def reap(self, tenant: keys.TenantKeys, within_s: float, by: str = BY_CALL, *, queues: bytes = b"") -> int:
        """Does all that is due; how many holds ended. `queues` are terms that are put in force, packed."""
        expired = 0
        terms = wire_money.TermsAt()
        ends_at_s = monotonic() + within_s
        for _ in range(REAP_ROUNDS):
            now = wire_money.pack_reap(self._clock(), REAPED_AT_ONCE, tenant.member, terms)
            args = (now, queues, wire_money.pack_marks(terms))
            left_s, heard = ends_at_s - monotonic(), self._hearing.reaping(by)
            match await self._call_script("reap", tenant.fixed, args, left_s, heard=heard):
                case [0, _, count]:
                    expired += count
                    break
                case [1, _, count]:
                    expired += count
                case [2, _, count, at_ms, record]:
                    expired += count
                    terms = self._terms(keys.tenant_of(tenant.member), at_ms, record)
                case [6, _, count]:
                    expired += count
                    await self._note_thresholds(keys.tenant_of(tenant.member), ends_at_s - monotonic())
                case [5, now_ms, count, record]:
                    expired += count
                    ref, account = keys.tenant_of(tenant.member), records.account_of(record)
                    queues = wire_queues.pack_terms(self._queues(ref, account, now_ms))
                case reply:
                    raise unreadable("reap", reply)
        return expired

    def _terms(self, ref: TenantRef, at_ms: int, record: bytes) -> wire_money.TermsAt:
        account = records.account_of(record) or Account(plan="")
        return wire_money.TermsAt(at_ms, account.version, self._refills(ref, account, at_ms))


def leaves_turns(reply: Sequence[Any]) -> bool:
    """Whether a script has left turns to reap, which says so behind an applied end of a hold."""
    return reply[0] == 1 and reply[-1] in {1, 2}
