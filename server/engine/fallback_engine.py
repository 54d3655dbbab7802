"""The engine over Redis that goes on without it: what only open limits bound is granted from a local allowance.

Without the store nobody is refused: a request is granted, `degraded`, or no decision is made. What was granted is kept
here and booked once the store is back, each grant under its id, so that a booking that is repeated takes nothing twice.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from time import monotonic_ns, time_ns
from typing import Any, Final

from server.domain.act import Act
from server.domain.allowances import LooksOf, no_looks
from server.domain.errors import HoldgateError, StoreUnavailableError
from server.domain.hold import Delivered, State
from server.domain.operation import TenantRef, differing_parts
from server.domain.plan import Plan, account_or_default, forced, make_plan
from server.domain.queue import TermsOf, Ticket, no_queues
from server.domain.refill import RefillTerms, no_refills
from server.domain.timed import Start
from server.engine.base import Extended, Found, Granted, HoldOutcome, Overtaken, Queued, Refused, Replayed, Stale
from server.engine.faults import id_reused
from server.engine.guarded_store import GuardedStore
from server.engine.local_allowance import Allowance
from server.engine.local_holds import LocalHold
from server.engine.redis_engine import RedisEngine
from server.engine.replies import fault_of
from server.engine.turns import Turns
from server.engine.wakes import Wakes
from server.metrics.metrics import Metrics

log = logging.getLogger(__name__)

MOST_HOLDS: Final = 16_384
"""Grants that wait to be booked; beyond that what leaves a hold is not granted, and what leaves none is not booked."""

BOOKED_AT_ONCE: Final = 32
"""Bookings under way together: the store that is just back has others to answer."""

BOOKING_WITHIN_S: Final = 5.0
PLANNING_ROUNDS: Final = 4

_BOOKING_ID: Final = "booking-"

_NS_PER_MS: Final = 1_000_000
_EPOCH_NS: Final = time_ns() - monotonic_ns()


def steady_ms() -> int:
    """Milliseconds since the epoch by the clock that this process began with, which never step: accounts' overrides and
    quotas' cycles are judged by them, too.
    """
    return (_EPOCH_NS + monotonic_ns()) // _NS_PER_MS


@dataclass(slots=True)
class Counts:
    """What has happened without the store, since this process began: grants, requests that got none, bookings made, and
    grants that were never booked.
    """

    granted: int = 0
    denied: int = 0
    booked: int = 0
    unbooked: int = 0


class FallbackEngine(RedisEngine):
    """`share` is the part of each open limit that this process may grant while the breaker of `store` is open; with 0
    it grants nothing. `local_clock` gives milliseconds since the epoch that never step back.
    """

    def __init__(  # noqa: PLR0913  # what it is put together from
        self,
        store: GuardedStore,
        *,
        share: float,
        clock: Callable[[], int] = lambda: 0,
        refills: RefillTerms = no_refills,
        most_cells: int = 1000,
        queues: TermsOf = no_queues,
        wakes: Wakes | None = None,
        turns: Turns | None = None,
        local_clock: Callable[[], int] = steady_ms,
        metrics: Metrics | None = None,
        looks: LooksOf = no_looks,
    ) -> None:
        metrics = metrics or Metrics()
        super().__init__(
            store,
            clock=clock,
            refills=refills,
            most_cells=most_cells,
            queues=queues,
            wakes=wakes,
            turns=turns,
            metrics=metrics,
            looks=looks,
        )
        self._metrics = metrics
        self._guard = store
        self._share = share
        self._local_clock = local_clock
        self._allowance = Allowance(share)
        self._holds: dict[tuple[TenantRef, str], LocalHold] = {}
        self.counts = Counts()

    @property
    def unbooked(self) -> int:
        """Grants that wait for the store."""
        return len(self._holds)

    def reserve(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None = None
    ) -> Coroutine[Any, Any, Granted | Refused | Replayed | Stale | Queued]:
        """As with the store; while it is gone, from the allowance."""
        if self._holds or self._guard.is_open:
            return self._reserve_here(plan, hold_id, within_s, ticket)
        return super().reserve(plan, hold_id, within_s, ticket)

    async def _reserve_here(
        self, plan: Plan, hold_id: str, within_s: float, ticket: Ticket | None
    ) -> Granted | Refused | Replayed | Stale | Queued:
        if self._holds and (known := await self._local(plan.operation.ref, hold_id, within_s)):
            return Replayed(self._local_clock(), known.view(), (), degraded=True)
        if self._guard.is_open:
            return self._grant(plan, hold_id)
        return await super().reserve(plan, hold_id, within_s, ticket)

    async def _missed(
        self, plan: Plan, hold_id: str, within_s: float, error: StoreUnavailableError
    ) -> Granted | Replayed:
        try:
            return await super()._missed(plan, hold_id, within_s, error)
        except StoreUnavailableError:
            if not self._guard.is_open or plan.shape.forced:  # what is being booked was granted before
                raise
        return self._grant(plan, hold_id)

    async def settle(  # noqa: PLR0913  # each is a field of the request
        self, ref: TenantRef, hold_id: str, delivered: Delivered, *, final: bool, within_s: float, allocation: str = ""
    ) -> HoldOutcome:
        """As with the store; what is to be booked is noted here. Counts are closed, so nothing of them waits here."""
        if self._holds and (known := await self._local(ref, hold_id, within_s)):
            outcome = known.settle(delivered, final=final)
            if final:
                self._allowance.free(known.plan, hold_id)
            return outcome
        return await super().settle(ref, hold_id, delivered, final=final, within_s=within_s, allocation=allocation)

    async def release(self, ref: TenantRef, hold_id: str, within_s: float, act: Act | None = None) -> HoldOutcome:
        """As with the store; what is to be booked is noted here. An operator's act waits for the store, which tells of
        it.
        """
        if self._holds and (known := await self._local(ref, hold_id, within_s)):
            if act is not None:
                raise StoreUnavailableError(f"hold {hold_id!r} is not booked yet; release it once the store is back")
            self._allowance.free(known.plan, hold_id)
            return known.release()
        return await super().release(ref, hold_id, within_s, act)

    async def extend(  # noqa: PLR0913  # each is a field of the request
        self,
        ref: TenantRef,
        hold_id: str,
        used: Mapping[str, int],
        raised: Plan | None,
        within_s: float,
        *,
        start: Start | None = None,
    ) -> Extended | Stale | Overtaken:
        """As with the store; what is to be booked is noted here."""
        if self._holds and (known := await self._local(ref, hold_id, within_s)):
            now_ms = self._local_clock()
            known.extend(used, raised, now_ms)
            self._allowance.renew(known.plan, hold_id, known.lease_ends_at_ms)
            return Extended(now_ms, known.view(), (), raised=True, degraded=True)
        return await super().extend(ref, hold_id, used, raised, within_s, start=start)

    async def find(self, ref: TenantRef, hold_id: str, within_s: float) -> Found:
        """As with the store; a hold that is to be booked is known here."""
        if hold_id and self._holds and (known := await self._local(ref, hold_id, within_s)):
            account = known.plan.account
            return Found(self._local_clock(), account if account.version else None, known.view())
        if self._guard.is_open:  # before anything is made for a tenant that may be one of millions
            raise fault_of("find", self._guard.refusal())
        return await super().find(ref, hold_id, within_s)

    async def _local(self, ref: TenantRef, hold_id: str, within_s: float) -> LocalHold | None:
        """The hold, where the store has not been told of it; waits while it is being told."""
        hold = self._holds.get((ref, hold_id))
        if hold is not None and hold.booking is not None:
            try:
                async with asyncio.timeout(within_s):
                    await asyncio.shield(hold.booking)
            except TimeoutError:
                raise StoreUnavailableError(f"hold {hold_id!r} is being booked; retry") from None
            hold = self._holds.get((ref, hold_id))
        if hold is not None:
            hold.expire(self._local_clock())
        return hold

    def _grant(self, plan: Plan, hold_id: str) -> Granted:
        why = self._why_not(plan)
        now_ms = self._local_clock()
        if not why:
            why = self._allowance.take(plan, hold_id, now_ms)
        if why:
            self.counts.denied += 1
            self._metrics.degraded.add(plan.policy.name, "denied")
            raise fault_of(why, self._guard.refusal())
        self.counts.granted += 1
        self._metrics.degraded.add(plan.policy.name, "granted")
        if len(self._holds) < MOST_HOLDS:
            hold = LocalHold.granted(plan, hold_id or _BOOKING_ID + secrets.token_hex(16), now_ms)
            self._holds[plan.operation.ref, hold.hold_id] = hold
        else:
            self.counts.unbooked += 1
            self._metrics.bookings.add("lost")
            if self.counts.unbooked == 1:
                log.warning("%d grants wait to be booked, the most that may; further ones are only counted", MOST_HOLDS)
        lease_ends_at_ms = now_ms + plan.terms.lease_ms if hold_id and plan.leaves_hold else 0
        return Granted(now_ms, (), lease_ends_at_ms, degraded=True)

    def _why_not(self, plan: Plan) -> str:
        """Why the plan cannot be decided without the store; empty if it can."""
        if not self._share:
            return "nothing is granted without the store"
        if plan.shape.closed:
            closed = next(form.limit for form in plan.shape.checks if form.limit.is_closed)
            return f"limit {closed.id!r} is closed without the store"
        if plan.shape.gates and (plan.gated or not plan.account.version):
            return f"the account of tenant {plan.operation.ref.tenant!r} may not be as it is known here"
        if plan.leaves_hold and len(self._holds) >= MOST_HOLDS:
            return f"{MOST_HOLDS} grants wait to be booked, the most that may"
        return ""

    # booking

    async def book(self) -> int:
        """Tells the store of the grants that were made without it, as far as it answers; how many."""
        booked = 0
        while self._holds and not self._guard.is_open:
            names = list(self._holds)[:BOOKED_AT_ONCE]
            done = await asyncio.gather(*(self._book(name) for name in names))
            booked += sum(done)
            if not all(done):
                break
        if booked:
            log.info("booked %d grants that were made without the store; %d are left", booked, len(self._holds))
        return booked

    async def _book(self, name: tuple[TenantRef, str]) -> bool:
        """Books one grant; whether it is done with, be it that the store does not take it."""
        hold = self._holds[name]
        hold.booking = asyncio.get_running_loop().create_future()
        hold.expire(self._local_clock())
        try:
            await self._tell(hold)
        except StoreUnavailableError:
            return False
        except HoldgateError as error:
            self.counts.unbooked += 1
            self._metrics.bookings.add("lost")
            log.warning("the grant of hold %r of tenant %r is not booked: %s", hold.hold_id, name[0].tenant, error)
        else:
            self.counts.booked += 1
            self._metrics.bookings.add("made")
        finally:
            hold.booking.set_result(None)
            hold.booking = None
        del self._holds[name]
        self._allowance.free(hold.plan, hold.hold_id)
        return True

    async def _tell(self, hold: LocalHold) -> None:
        ref, hold_id = hold.plan.operation.ref, hold.hold_id
        await self._take(hold)
        totals = {meter: values.reported for meter, values in hold.meters.items() if values.reported is not None}
        settled = hold.state in {State.SETTLED, State.SETTLED_LATE}
        if settled or totals:
            await super().settle(ref, hold_id, totals, final=settled, within_s=BOOKING_WITHIN_S)
        if hold.state is State.RELEASED:
            await super().release(ref, hold_id, BOOKING_WITHIN_S)

    async def _take(self, hold: LocalHold) -> None:
        """Takes what was granted, whether it fits by now or not."""
        plan, operation = hold.plan, hold.plan.operation
        for _ in range(PLANNING_ROUNDS):
            answer = await super().reserve(forced(plan), hold.hold_id, BOOKING_WITHIN_S)
            if isinstance(answer, Replayed):
                differs = differing_parts(answer.hold.fingerprint, operation.fingerprint())
                if differs:
                    raise id_reused(hold.hold_id, differs)
            if not isinstance(answer, Stale):
                return
            account = account_or_default(plan.policy, operation.ref, answer.account, answer.now_ms)
            plan = make_plan(plan.policy, operation, account, answer.now_ms)
        raise StoreUnavailableError(f"the account of hold {hold.hold_id!r} kept changing while it was booked")
