"""A store in which everything has happened once, and each operation that a script decides.

`Scene.build` gives the same state every time: an account with grants, an open hold, an ended one, windows of two
scopes, a pool, a balance, a quota that a settle exhausts. `OPERATIONS` act on it; each reaches its script by way of
the engine.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from server.domain.account import Account
from server.domain.act import Act, Deed
from server.domain.ledger import Cause
from server.domain.limits import Balance, Kind
from server.domain.limits.balance import GrantSource
from server.domain.limits.slots import Queue
from server.domain.operation import TenantRef
from server.domain.plan import CheckForm, Plan, bare_form
from server.domain.policy import Action
from server.domain.queue import Ticket, queue_terms
from server.domain.refill import refills_of
from server.domain.sampling import Entry, Page
from server.domain.units import FOREVER_MS
from server.engine import keys
from server.engine.base import AccountWrite, AllocationImport, CycleImport, Queued
from server.engine.books import Booking, Target
from server.engine.client import StoreConnection
from server.engine.hands import Adjustment, Reset
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.redis_engine import RedisEngine
from server.engine.scripts import SCRIPT_NAMES, script
from tests.policies_for_tests import HOUR_MS, TERMS, balance, count, only_for, policy, quota, slots, window
from tests.stores import RunningStore
from tests.tenants import START_MS, WITHIN_S, Clock, Tenant

LINE: Final = slots("line", 1, typical_ms=15_000, queue=Queue(times=3, ticket_ms=30_000))
TICKET: Final = Ticket(10 * HOUR_MS)
LAB: Final = policy(
    window("rpm", 50),
    window("tpm", 500, "tokens", scope=("project",)),
    window("shadow", 1, shadow=True),
    only_for(slots("jobs", 5), "work"),
    slots("sized", 50, "frames", scope=("model",)),
    count("places", 9),
    quota("allowance", 4, grace_ms=30 * 24 * HOUR_MS, thresholds=(75, 100)),
    only_for(LINE, "rest"),
    balance("credits", debt=10, thresholds=(85, 70)),
)
LONG: Final = replace(TERMS, lease_ms=10 * HOUR_MS, longest_ms=20 * HOUR_MS)
RICH: Final = replace(
    policy(*LAB.limits, balance("purse", burn="312", refill=30, ledger=True, thresholds=(60, 40, 5))),
    actions={"work": Action("work", TERMS), "rest": Action("rest", LONG)},
)
"""The same with all that a balance may have."""
UNDATED: Final = replace(LAB, limits=tuple(limit for limit in LAB.limits if limit.kind is not Kind.QUOTA))
"""LAB without what depends on the date: for tests in which the store's own clock decides."""

REF: Final = TenantRef("lab", "acme")
TENANT: Final = keys.tenant_keys(REF)
CREDITS: Final = LAB.limits[-1].cell
PURSE: Final = RICH.limits[-1]
TO_PURSE: Final = AccountWrite(
    source=GrantSource.PROMOTIONAL,
    expires_at_ms=START_MS + 10 * HOUR_MS,
    balances={limit.cell: limit for limit in RICH.limits if isinstance(limit, Balance)},
    cause=Cause.GRANT,
    fingerprint=b"y",
)
AMOUNT: Final = Page("i586", "sampled|id", fixed=True, before="i585")
AMOUNTS: Final[dict[str, Any]] = {"tokens": 20, "frames": 3, "credits": 10}

KEYS: Final = {
    "cells": TENANT.cells,
    "account": TENANT.account,
    "ids": TENANT.ids,
    "due": TENANT.due,
    "grants": TENANT.prefix + b"grants",
    "ledger": TENANT.ledger,
    "trimmed": TENANT.prefix + b"trimmed",
    "due_index": TENANT.due_index,
    "hold": TENANT.hold("h"),
    "new hold": TENANT.hold("new"),
    "notes": TENANT.notes,
    "queue": TENANT.prefix + b"q:" + LINE.cell.encode(),
    "pools": TENANT.prefix + b"pools",
    "allocations": TENANT.prefix + b"alloc",
    "noted": TENANT.noted,
    "told": TENANT.told,
    "acts": TENANT.acts,
    "lease": keys.WEBHOOK_LEASE,
    "since": keys.WEBHOOK_SINCE,
    "samples": TENANT.prefix + b"u:d20522",
    "amounts": TENANT.prefix + b"u:i586",
    "amounts before": TENANT.prefix + b"u:i585",
    "windows": TENANT.windows(""),
    "project's windows": TENANT.windows("project=p 1"),
}
"""Every key that a script may touch, by what it is called here."""


@dataclass
class Scene:
    """The tenant and the store that it lives in."""

    store: RunningStore
    connection: StoreConnection
    tenant: Tenant
    built: dict[bytes, tuple[bytes, int]]
    """Each key's dump and its TTL, to come back to."""
    built_at_ms: int

    @classmethod
    async def build(cls, store: RunningStore, connection: StoreConnection) -> "Scene":
        store.command("FLUSHALL")
        clock = Clock()
        engine = RedisEngine(connection, clock=clock, queues=partial(queue_terms, RICH))
        tenant = Tenant(engine, clock, RICH, REF)
        await tenant.write(AccountWrite(grants={CREDITS: 7}, write_id="first", fingerprint=b"x"))
        await tenant.open(credits=93, purse=50)
        await tenant.write(replace(TO_PURSE, grants={PURSE.cell: 15}, write_id="promotion"))
        purchase = replace(TO_PURSE, source=GrantSource.BOUGHT, expires_at_ms=FOREVER_MS)
        await tenant.write(replace(purchase, grants={PURSE.cell: 5}, write_id="purchase"))
        await tenant.grant("ended", **AMOUNTS)
        await tenant.settle("ended")
        clock.advance(1000)
        await tenant.grant("h", **AMOUNTS)
        clock.advance(1000)
        await tenant.report("h", {"tokens": 5, "credits": 4})
        target = Target(quota_of(tenant.plan()), over=False)
        known = Entry(Page("d20522", "sampled|p|e|1"), 2, 1, 0, 1)
        entries = ((known, (0,), START_MS + 100 * HOUR_MS),)
        await tenant.engine.books.record(REF, Booking(tenant.account.version, (target,), entries), WITHIN_S)
        await tenant.grant("runs", action="rest")
        for waits in ("waits", "waits too"):
            assert isinstance(await _queue(tenant, waits), Queued)
        stored = {key: (store.command("DUMP", key), store.command("PTTL", key)) for key in store.command("KEYS", "*")}
        return cls(store, connection, tenant, stored, clock.now_ms)

    def rewind(self) -> None:
        """Everything as it was built, the clock included."""
        self.store.command("FLUSHALL")
        for key, (dump, ttl_ms) in self.built.items():
            self.store.command("RESTORE", key, max(ttl_ms, 0), dump)
        self.tenant.clock.now_ms = self.built_at_ms

    def make_overdue(self) -> None:
        """The open hold's lease ends."""
        self.tenant.clock.advance(TERMS.lease_ms)


Operation = Callable[[Tenant], Awaitable[object]]


def _replay(tenant: Tenant) -> Awaitable[object]:
    return tenant.reserve(tenant.plan("h", **AMOUNTS))


def _reserve(tenant: Tenant) -> Awaitable[object]:
    return tenant.reserve(tenant.plan("new", **AMOUNTS))


def _refused(tenant: Tenant) -> Awaitable[object]:
    return tenant.reserve(tenant.plan("new", tokens=501))


def _queue(tenant: Tenant, hold_id: str) -> Awaitable[object]:
    return tenant.engine.reserve(tenant.plan(hold_id, action="rest"), hold_id, WITHIN_S, TICKET)


def _ticket(tenant: Tenant) -> Awaitable[object]:
    return tenant.engine.queues.ticket(tenant.plan("waits", action="rest"), "waits", Ticket(5000, "me.1"), WITHIN_S)


def _renew_tickets(tenant: Tenant) -> Awaitable[object]:
    return tenant.engine.queues.renew(REF, [LINE.cell], ["waits", "nobody"], 60_000, WITHIN_S)


def _extend(tenant: Tenant) -> Awaitable[object]:
    """A report above the reserve and a raise in one call."""
    return tenant.extend("h", tenant.plan(tokens=40, frames=3, credits=30), {"tokens": 25, "credits": 6})


def quota_of(plan: Plan) -> CheckForm:
    """The one quota of a plan."""
    return next(check for check in plan.shape.checks if check.terms is not None)


def count_of(plan: Plan) -> CheckForm:
    """The one count of a plan."""
    return next(check for check in plan.shape.checks if check.limit.kind is Kind.COUNT)


def _write_account(tenant: Tenant) -> Awaitable[object]:
    account = Account(plan="pro", version=tenant.account.version + 1)
    write = replace(
        TO_PURSE,
        account=account,
        expected_version=tenant.account.version,
        grants={CREDITS: 5, PURSE.cell: 3},
        expires_at_ms=START_MS + HOUR_MS,
        refills=refills_of(RICH, account, tenant.clock()),
        uses=(CycleImport(quota_of(tenant.plan()), 5),),
        allocations=(AllocationImport(count_of(tenant.plan()), "elsewhere", 2),),
        write_id="second",
        act=_act(Deed.ACCOUNT),
    )
    return tenant.write(write)


def _record(tenant: Tenant) -> Awaitable[object]:
    """Samples that reach both thresholds; one is known already, and one is an amount."""
    known = Entry(Page("d20522", "sampled|p|e|1"), 2, 1, 0, 1)
    more = [known._replace(sequence=2, number=1), known._replace(key=3), Entry(AMOUNT, 0, 7, 5, 1)]
    target = Target(quota_of(tenant.plan()), over=False)
    until_ms = START_MS + 100 * HOUR_MS
    entries = tuple((entry, (0,), until_ms) for entry in (known, *more))
    return tenant.engine.books.record(REF, Booking(tenant.account.version, (target,), entries), WITHIN_S)


async def _repair(tenant: Tenant) -> object:
    seen = await tenant.engine.audit(REF, [PURSE.cell], WITHIN_S)
    totals = seen.balances[PURSE.cell].totals
    right = totals._replace(granted=totals.granted + 1)
    return await tenant.engine.hands.repair(REF, {PURSE.cell: right}, seen.balances, _act(Deed.REPAIR), WITHIN_S)


async def _tell(tenant: Tenant) -> object:
    """Tells the one note that a settle of the scene has left."""
    notes = await tenant.engine.notes(REF, "", 1, WITHIN_S)
    return await tenant.engine.feed.tell(REF, "", notes[0].note_id if notes else "0-1", WITHIN_S)


def _act(deed: Deed) -> Act:
    return Act(deed, "ops", "a mistake", "its target", deed.name)


def _reset(tenant: Tenant, form: CheckForm) -> Awaitable[object]:
    return tenant.engine.hands.reset(
        REF, Reset(form, tenant.account.version, every=False), _act(Deed.RESET), b"z", WITHIN_S
    )


def _adjust(tenant: Tenant, form: CheckForm, units: int) -> Awaitable[object]:
    adjustment = Adjustment(form, tenant.account.version, units, sets=False)
    return tenant.engine.hands.adjust(REF, adjustment, _act(Deed.ADJUST), b"z", WITHIN_S)


def _tpm_of(plan: Plan) -> CheckForm:
    return next(check for check in plan.shape.checks if check.limit.id == "tpm")


OPERATIONS: Final[dict[str, Operation]] = {
    "reserve": _reserve,
    "reserve, refused": _refused,
    "reserve, repeated": _replay,
    "look": lambda tenant: tenant.engine.look(tenant.plan(**AMOUNTS), WITHIN_S),
    "report": lambda tenant: tenant.report("h", {"tokens": 25, "credits": 6}),
    "settle": lambda tenant: tenant.settle("h", {"tokens": 30, "credits": 30, "frames": 1}),
    "release": lambda tenant: tenant.release("h"),
    "renew": lambda tenant: tenant.renew("h", credits=6),
    "extend": _extend,
    "deallocate": lambda tenant: tenant.engine.books.release_allocation(REF, "ended", "", WITHIN_S),
    "record": _record,
    "reserve, queued": lambda tenant: _queue(tenant, "new"),
    "release, with a turn": lambda tenant: tenant.release("runs"),
    "release, from the queue": lambda tenant: tenant.release("waits"),
    "ticket": _ticket,
    "renew tickets": _renew_tickets,
    "find": lambda tenant: tenant.find("h"),
    "write account": _write_account,
    "audit": lambda tenant: tenant.engine.audit(REF, [PURSE.cell, CREDITS], WITHIN_S),
    "trim": lambda tenant: tenant.engine.trim_ledger(REF, 2, WITHIN_S),
    "repair": _repair,
    "lease": lambda tenant: tenant.engine.feed.hold_lease("me", 60_000, WITHIN_S),
    "tell": _tell,
    "reset": lambda tenant: _reset(tenant, _tpm_of(tenant.plan(**AMOUNTS))),
    "reset, a quota": lambda tenant: _reset(tenant, quota_of(tenant.plan())),
    "adjust": lambda tenant: _adjust(tenant, bare_form(PURSE, (), None, None), -60),
    "adjust, a quota": lambda tenant: _adjust(tenant, quota_of(tenant.plan()), 5),
    "delete": lambda tenant: tenant.engine.hands.delete(
        REF, _act(Deed.DELETE), forced=True, place="", within_s=WITHIN_S
    ),
    "release, an act": lambda tenant: tenant.engine.release(REF, "h", WITHIN_S, _act(Deed.RELEASE)),
}
REAP: Final = "reap"
"""The one script that acts for time alone; the clock has been moved before it."""


class Capture:
    """A store caller that keeps one call of a script instead of making it: the first, or the one behind `passed`."""

    class Caught(Exception):
        """Carries nothing; the call stands in `Capture.call`."""

    def __init__(self, store: StoreConnection, *, script_name: str, passed: int = 0) -> None:
        self._store = store
        self._name = script_name
        self._passed = passed
        self.keys: Sequence[bytes] = ()
        self.args: Sequence[Word] = ()

    async def evalsha(
        self,
        script_source: ScriptSource,
        keys_: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Reply:
        if script_source is script(self._name):
            if not self._passed:
                self.keys, self.args = keys_, args
                raise self.Caught
            self._passed -= 1
        return await self._store.evalsha(script_source, keys_, args, timeout_s, heard)

    async def call(self, *words: Word, timeout_s: float = 1.0) -> Reply:
        return await self._store.call(*words, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._store.close()


SCRIPT_OF: Final = {
    **{name: name.partition(",")[0] for name in OPERATIONS},
    "look": "usage",
    "report": "settle",
    "renew": "extend",
    "renew tickets": "renew",
    "write account": "account",
    REAP: "reap",
}
assert set(SCRIPT_OF.values()) == set(SCRIPT_NAMES)


async def capture(scene: Scene, operation: str, connection: StoreConnection) -> Capture:
    """The script call that an operation would make now, not made."""
    caught = Capture(connection, script_name=SCRIPT_OF[operation])
    tenant = replace(scene.tenant, engine=RedisEngine(caught, clock=scene.tenant.clock))
    try:
        await (tenant.engine.sweep() if operation == REAP else OPERATIONS[operation](tenant))
    except Capture.Caught:
        return caught
    raise AssertionError(f"{operation} did not call its script")


async def reap_alone(scene: Scene) -> None:
    """Reaps as operations do that find a lease overdue: a look at nothing, which is not taken again afterwards."""
    looking = Capture(scene.connection, script_name="usage", passed=1)
    tenant = replace(scene.tenant, policy=policy(), engine=RedisEngine(looking, clock=scene.tenant.clock))
    with suppress(Capture.Caught):
        await tenant.engine.look(tenant.plan(), WITHIN_S)
