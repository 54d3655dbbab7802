"""Plays an episode: callers, servers with the real engine, a network that loses things, the simulated store."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from server.domain.account import Account
from server.domain.errors import CorruptStateError, StoreUnavailableError
from server.domain.limits import Balance, Quota, Window
from server.domain.operation import TenantRef
from server.domain.plan import Plan
from server.domain.queue import QueueTerms, queue_terms
from server.engine.base import Granted
from server.engine.keys import tenant_of
from server.engine.memory_engine import MemoryEngine
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.redis_engine import OVERDUE, RedisEngine
from server.engine.scripts import Script
from server.engine.store_errors import OutcomeUnknown, StoreUnavailable
from tests.engine_answers import Fault, answer_of
from tests.policies_for_tests import HOUR_MS
from tests.simulation.asked import SCOPES, TENANTS, Ask, Asked
from tests.simulation.books import Books, Violation
from tests.simulation.by_hand import DeleteTenant, ReadTrail, ResetByHand
from tests.simulation.deletions import Deletions
from tests.simulation.episodes import SERVERS, Again, Begin, Clock, Crash, Episode, Fate, GoOn, Reload, Step
from tests.simulation.lines import SeeTo
from tests.simulation.loop import StillLoop
from tests.simulation.operations import (
    Audit,
    Find,
    ListHolds,
    Question,
    ReadLedger,
    Reserve,
    Sweep,
    Usage,
    Writing,
)
from tests.simulation.store import Change
from tests.simulation.turns import Lines
from tests.store_state import broken_rules, leaks, snapshot
from tests.tenants import START_MS, WITHIN_S, Refills

PAST_ALL_MS: Final = 1000 * 24 * HOUR_MS
CALL_S: Final = 0.012
"""What a call takes, so that whoever asks for ever runs out of time."""
REMEMBERED: Final = 30
"""Messages that may arrive again."""


@dataclass
class _Call:
    """A call to the store that has been sent and not been made: a script with its keys and words, or a command."""

    script: str
    keys: Sequence[bytes]
    words: Sequence[Word]
    reply: asyncio.Future[Reply]


@dataclass
class _Talk:
    """One operation on its way."""

    asked: Asked
    server: int
    ask: Ask
    task: asyncio.Task[Any] = field(init=False)
    waiting: deque[_Call] = field(default_factory=deque)
    disturbed: bool = False
    went_back: bool = False
    """The clock stepped back under it. An operation keeps the instant that it was told, a reap on its behalf is told a
    later one, and what the one sees overdue the other may not: a store's own clock is one for both.
    """
    decided: bool = False
    verdict: Any = None
    """What the plain model says, from the moment at which the store decided."""


class _Line:
    """A server's connection: what the engine sends waits in the talk that sends it."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,  # noqa: ARG002  # what is counted is no part of what is proven here
    ) -> Awaitable[Reply]:
        assert isinstance(script, Script)
        assert timeout_s > 0
        return self._world.sent(script.name, keys, args)

    def call(self, *words: Word, timeout_s: float = 1.0) -> Awaitable[Reply]:
        assert timeout_s > 0
        return self._world.sent("", (), words)

    async def close(self) -> None:
        """Nothing to close."""


class Store(Protocol):
    """What the world needs of the store that it plays on."""

    takes_time: bool
    """Whether its clock can be told; otherwise the engines pass the time, and no plain model can follow them."""

    def flush(self) -> None:
        """Empties it."""

    def set_time(self, now_ms: int, *, ttl_counts: bool) -> None:
        """Its clock, and whether keys may leave by themselves."""

    def run(self, name: str, keys: Sequence[bytes], args: Sequence[Word]) -> list[Any]:
        """A script's reply."""

    def command(self, *words: Word) -> Reply:
        """A plain command's reply."""

    def commands(self, several: Sequence[Sequence[Word]]) -> list[Reply]:
        """The replies to several plain commands."""

    def changes(self) -> Iterable[Change]:
        """What the last script changed."""


class World:
    """One episode, step by step. `play` raises `Violation`."""

    def __init__(self, episode: Episode, store: Store) -> None:
        self.episode, self.store = episode, store
        self.steps = 0
        self.policy = episode.policies[0]
        self._refills = Refills(self.policy)
        self._now_ms = START_MS
        self._accounts: dict[str, list[Account]] = {name: [Account(plan="free")] for name in TENANTS}
        self._loop = StillLoop()
        self._speaking: _Talk | None = None
        self._talks: list[_Talk] = []
        self._past: deque[Asked] = deque(maxlen=REMEMBERED)
        self._books = Books()
        self._windows: dict[tuple[str, str, tuple[str, ...]], deque[tuple[int, int]]] = {}
        self._half_reaped: set[str] = set()
        self._deletions = Deletions(store, self._books)
        self._makes_turns = False
        clock = (lambda: 0) if store.takes_time else self.now_ms
        refills, queues, looks = self._refills, self._refills.queues, self._refills.looks
        self._servers = [
            RedisEngine(_Line(self), clock=clock, refills=refills, queues=queues, looks=looks) for _ in range(SERVERS)
        ]
        judged = episode.judged and store.takes_time
        self._model = MemoryEngine(self.now_ms, refills=refills, queues=queues, looks=looks) if judged else None
        cells = self.policy.queue_cells
        self._lines = Lines(store, cells, self._queues, self.now_ms) if cells else None
        store.flush()
        self._tell_time()

    # what operations know

    def now_ms(self) -> int:
        return self._now_ms

    def account(self, tenant: str, behind: int) -> Account:
        known = self._accounts[tenant]
        return known[max(len(known) - 1 - behind, 0)]

    def _queues(self, tenant: str) -> QueueTerms:
        return queue_terms(self.policy, TenantRef("lab", tenant), self.account(tenant, 0), self._now_ms)

    # the steps

    def play(self) -> None:
        """All steps, then the end: everything open comes to its end, and nothing of it may be left."""
        for step in self.episode.steps:
            self._play(step)
            self.steps += 1
        for talk in list(self._talks):
            self._go_on(talk)
        for name in sorted(self._deletions.closed):
            self.ask_plainly(DeleteTenant(name, forced=False))
        self._look_at_everything()
        self._must_keep_rules()
        self._pass_time(PAST_ALL_MS)
        self.ask_plainly(Sweep(""))
        self._must_keep_rules()
        if left := leaks(snapshot(self.store)):
            raise Violation(f"left behind: {left}")

    def _look_at_everything(self) -> None:
        for name in TENANTS:
            last_looks = [
                *(Audit(name), ReadLedger(name), ReadTrail(name)),
                *(Usage(name, scope) for scope in range(len(SCOPES))),
            ]
            reserves = [step.asked for step in self.episode.steps if isinstance(step, Begin)]
            holds = {asked.hold_id for asked in reserves if isinstance(asked, Reserve) and asked.tenant == name}
            for asked in [*last_looks, *(Find(name, hold_id) for hold_id in sorted(holds))]:
                self.ask_plainly(asked)

    def _must_keep_rules(self) -> None:
        if broken := broken_rules(snapshot(self.store)):
            raise Violation(f"the store breaks its rules: {broken}")

    def ask_plainly(self, asked: Asked) -> Any:  # noqa: ANN401  # whatever engines answer
        """An operation without trouble, to its end."""
        talk = self._begin(asked, 0)
        self._go_on(talk)
        return talk.task.result()

    def _play(self, step: Step) -> None:
        match step:
            case Begin(asked, server, calls):
                self._past.append(asked)
                self._ask(asked, server, calls)
            case GoOn(which, fate):
                if self._talks:
                    self._meet(self._talks[which % len(self._talks)], fate)
            case Again(back, server):
                if self._past:
                    self._ask(self._past[-1 - back % len(self._past)], server)
            case Crash(server, made):
                self._crash(server, made=made)
            case Clock(by_ms):
                self._pass_time(by_ms)
            case Reload(which):
                self._catch_up()
                self.policy = self.episode.policies[which % len(self.episode.policies)]
                self._refills.policy = self.policy

    def _ask(self, asked: Asked, server: int, calls: int = 1_000_000) -> None:
        """Begins an operation, and makes some of its calls. The model deletes at once, so nothing comes between."""
        if isinstance(asked, DeleteTenant) and self._model is not None:
            for talk in list(self._talks):
                self._go_on(talk)
            self._catch_up()
            calls = 1_000_000
        self._go_on(self._begin(asked, server), calls)

    def _begin(self, asked: Asked, server: int) -> _Talk:
        talk = _Talk(asked, server, asked.question(self))
        talk.task = self._loop.create_task(answer_of(talk.ask(self._servers[server])))
        self._talks.append(talk)
        self._let_run(talk)
        return talk

    def _go_on(self, talk: _Talk, calls: int = 1_000_000) -> None:
        """Makes calls of a talk, answered one by one."""
        while calls and talk.waiting:
            self._meet(talk, Fate.ANSWERED)
            calls -= 1

    def _meet(self, talk: _Talk, fate: Fate) -> None:
        """The oldest waiting call of a talk meets its fate."""
        if not talk.waiting:
            return
        call = talk.waiting.popleft()
        talk.disturbed |= fate is not Fate.ANSWERED
        if fate is Fate.ANSWERED:
            call.reply.set_result(self._make(talk, call))
        elif fate in {Fate.GIVEN_UP, Fate.GIVEN_UP_LATE}:
            talk.task.cancel()
            if fate is Fate.GIVEN_UP_LATE:
                self._make(talk, call)
        elif fate is Fate.REFUSED:
            call.reply.set_exception(StoreUnavailable("not sent", reason="disconnected"))
        else:
            if fate is Fate.REPLY_LOST:
                self._make(talk, call)
            call.reply.set_exception(OutcomeUnknown("no answer", reason="timeout"))
        self._let_run(talk)

    def _crash(self, server: int, *, made: bool) -> None:
        for talk in [talk for talk in self._talks if talk.server == server]:
            talk.disturbed = True
            sent, talk.waiting = talk.waiting, deque()
            for call in sent:
                if made:
                    self._make(talk, call)
            talk.task.cancel()
            self._let_run(talk)

    def _pass_time(self, by_ms: int) -> None:
        if by_ms < 0 or self._half_reaped:
            self._catch_up()
        self._now_ms += by_ms
        if by_ms < 0:
            self._windows.clear()  # whoever looks now moves the entries back
            for talk in self._talks:
                talk.went_back = True
        self._tell_time()

    def _catch_up(self) -> None:
        """The model ends what is overdue at any call, a script not before it must: what comes next would tell them
        apart.
        """
        if self._model is not None:
            for name in TENANTS:
                self.ask_plainly(Audit(name))

    def _tell_time(self) -> None:
        self.store.set_time(self._now_ms, ttl_counts=not self.episode.judged)

    # calls

    def sent(self, script: str, keys: Sequence[bytes], words: Sequence[Word]) -> asyncio.Future[Reply]:
        """What an engine does instead of speaking to a socket."""
        assert self._speaking is not None
        call = _Call(script, keys, words, self._loop.create_future())
        self._speaking.waiting.append(call)
        return call.reply

    def _let_run(self, talk: _Talk) -> None:
        self._speaking = talk
        self._loop.run_ready()
        self._speaking = None
        if talk.task.done():
            self._talks.remove(talk)
            talk.waiting.clear()
            if not talk.task.cancelled():
                self._finished(talk, talk.task.result())
        elif not talk.waiting:
            raise Violation(f"{talk.asked} waits for nothing")

    def _make(self, talk: _Talk, call: _Call) -> Reply:
        """The store makes a call; what it changed is checked."""
        self._loop.now_s += CALL_S
        if not call.script:
            reply = self.store.command(*call.words)
            self._books.check("", (), self.store.changes(), None)  # keys whose time is over leave when they are read
            return reply
        if call.script == talk.asked.script and call.script in {"trim", "find", "deallocate", "record"}:
            self._catch_up()  # they alone decide while something is overdue
        tenant = tenant_of(call.keys[0].removeprefix(b"hg:{").partition(b"}:")[0]).tenant
        if call.script == "delete":
            return self._deleting(tenant, call)
        if self._model is not None and self._lines is not None and call.script != "reap":
            self._make_turns(tenant)
        reply = self.store.run(call.script, call.keys, call.words)
        writing = talk.ask.write if isinstance(talk.ask, Writing) else None
        units = writing.grants if writing is not None and not writing.refills else None
        self._books.check(call.script, reply, self.store.changes(), units)
        if call.script == "reap":
            self._reaped(call.keys[0], reply)
        elif call.script == talk.asked.script and reply[0] != OVERDUE:
            self._decided(talk, reply)
        if self._lines is not None and tenant not in self._deletions.closed:
            self._lines.check(tenant, call.script, reply)
        return reply

    def _deleting(self, name: str, call: _Call) -> Reply:
        """A step of a deletion, which begins with what is known of the tenant."""
        reply = self.store.run(call.script, call.keys, call.words)
        changed = any(True for _ in self.store.changes())
        if self._deletions.look_at(name, call.keys[0], call.words[0], reply, changed=changed):
            self._half_reaped.discard(name)
            self._accounts[name] = [Account(plan="free")]
            self._windows = {key: log for key, log in self._windows.items() if key[0] != name}
            if self._lines is not None:
                self._lines.forget(name)
        return reply

    def _make_turns(self, tenant: str) -> None:
        """The model makes turns at any call; a script only where the terms of the queues are those of now, and where it
        minds what is overdue. A turn counts from when it is made.
        """
        assert self._lines is not None
        if self._lines.owes_turns(tenant) and not self._makes_turns:
            self._makes_turns = True
            self.ask_plainly(SeeTo(tenant))
            self._makes_turns = False

    def _reaped(self, key: bytes, reply: Sequence[Any]) -> None:
        if self._model is None:
            return
        ref = tenant_of(key.removeprefix(b"hg:{").removesuffix(b"}:cells"))
        if reply[0]:
            self._half_reaped.add(ref.tenant)
        else:
            self._half_reaped.discard(ref.tenant)
        _answer(self._model.audit(ref, (), WITHIN_S))

    def _decided(self, talk: _Talk, reply: Sequence[Any]) -> None:
        """The one script that decides an operation has run."""
        if talk.decided and talk.asked.script not in {"trim", "ticket"}:
            raise Violation(f"{talk.asked} was decided twice")
        talk.decided = True
        if self._model is not None:
            talk.verdict = _answer(talk.ask(self._model))
        if isinstance(talk.ask, Writing) and reply[0] == 1 and talk.ask.write.account is not None:
            self._accounts[talk.asked.tenant].append(talk.ask.write.account)
        if isinstance(talk.asked, ResetByHand) and reply[0] == 1:
            self._windows.clear()  # what was forgotten counts no more
        if isinstance(talk.ask, Question) and reply[0] == 1 and (queue := talk.ask.plan.shape.queue) is not None:
            assert self._lines is not None
            self._lines.overtakes_nobody(talk.asked.tenant, queue.cells)
        if isinstance(talk.ask, Question) and reply[0] in {1, 6}:
            self._count_windows(talk.asked.tenant, talk.ask.plan, reply[1])

    def _count_windows(self, tenant: str, plan: Plan, now_ms: int) -> None:
        """Invariant 4, by what was admitted: of windows that count requests and get nothing back."""
        for check in plan.checks:
            limit = check.limit
            if not isinstance(limit, Window) or limit.meter != "requests" or limit.returns or limit.shadow:
                continue
            log = self._windows.setdefault((tenant, limit.cell, check.scope), deque())
            if log and log[-1][0] > now_ms:
                log.clear()  # as after a clock that went back
            log.append((now_ms, check.take))
            while log[0][0] <= now_ms - limit.window_ms:
                log.popleft()
            admitted = sum(units for _, units in log)
            if check.take and admitted > check.cap:
                raise Violation(f"{limit.id} of {tenant} admitted {admitted} of {check.cap}")

    def _finished(self, talk: _Talk, answer: object) -> None:
        if isinstance(answer, Granted) and isinstance(talk.ask, Question):
            for check, look in zip(talk.ask.plan.checks, answer.looks, strict=True):
                counted = check.take and not check.limit.shadow and not isinstance(check.limit, Balance | Quota)
                if counted and look.used > check.cap:
                    raise Violation(f"{talk.asked} was granted {look} of {check.limit.id}")
        if talk.went_back and isinstance(answer, Fault) and answer[0] is CorruptStateError:
            return
        if not talk.disturbed and isinstance(answer, Fault) and answer[0] in {StoreUnavailableError, CorruptStateError}:
            raise Violation(f"{talk.asked} met nothing that fails, and failed: {answer}")
        if self._model is None or talk.disturbed or isinstance(talk.asked, Sweep | ListHolds):
            return
        verdict = talk.verdict if talk.decided else _answer(talk.ask(self._model))
        if talk.asked.told(verdict) != talk.asked.told(answer):
            raise Violation(f"{talk.asked} was answered\n  {answer}\nand the plain model answers\n  {verdict}")


def _answer(operation: Awaitable[Any]) -> Any:  # noqa: ANN401  # whatever the plain model answers
    """The plain model's answer; it never waits."""
    try:
        answer_of(operation).send(None)
    except StopIteration as done:
        return done.value
    raise Violation("the plain model waits for something")
