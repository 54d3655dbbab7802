"""Plays a story on a backend, and holds every step to what the story and the contract say.

Beyond the story's own words: a call must succeed, be granted, be applied and be no replay unless the step says
otherwise; and on a real store, a call that is not to change anything must leave every key as it was.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from quota.v1 import quota_service_pb2 as quota

from tests.scenario.answers import Fault, Fields, Whole, answer_fields, fault_fields
from tests.scenario.backends import TRANSPORTS, Backend
from tests.scenario.calls import READS, Call
from tests.scenario.matching import differences
from tests.scenario.reading import Value
from tests.scenario.story import Step, Story
from tests.store_state import Snapshot, broken_rules, snapshot

UNLESS_SAID: Final = {"outcome": Value("GRANTED"), "applied": Value(data=True), "replayed": Value(data=False)}
"""What an answer that has such a field must say."""

TOTALS_UNLESS_SAID: Final = {"queued": Value(0), "refused": Value({}), "errors": Value({}), "replayed": Value(0)}
"""The same for the totals of parallel calls."""

SAID_AS: Final = {"outcome": {"refused", "refusal"}}
"""Words of a step that say the same as a field."""

AGE: Final = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= tonumber(ARGV[1]) then redis.call('DEL', key) end
  if left > tonumber(ARGV[1]) then redis.call('PEXPIRE', key, left - ARGV[1]) end
end
"""
"""Brings every key's end closer: TTLs run by the store's own clock, which a story does not move."""

Expected = Mapping[str, Value]
Watch = Callable[[Expected, Fields], object]
"""Is told of each answer together with what it was compared with."""


class StoryFailed(AssertionError):
    """A step was not answered as the story expects."""


async def play(story: Story, backend: Backend, watch: Watch = lambda _expected, _answer: None) -> None:
    """Raises StoryFailed, naming file, story, step and every difference."""
    await backend.set_time(story.t0_ms)
    for step in story.steps:
        try:
            await _Player(backend, story.t0_ms, watch).play(step)
        except AssertionError as error:
            where = f"{step.where}: story {story.title!r}, {step.title}, on {backend.name}"
            raise StoryFailed(f"{where}:\n{error}") from None


class _Player:
    """Plays steps."""

    def __init__(self, backend: Backend, t0_ms: int, watch: Watch) -> None:
        self._backend = backend
        self._t0_ms = t0_ms
        self._watch = watch

    async def play(self, step: Step) -> None:
        if step.at_ms is not None:
            await self._move_clock(step.at_ms)
        if step.call is None:
            return
        if step.knobs is not None:
            self._backend.files.set_knobs(step.knobs)
        if step.connections:
            await self._play_at_once(step, step.call)
            return
        for n in range(1, step.times + 1):
            before = self._state()
            answer = await self._answer(step.call, n, step.via)
            self._must_match(step.expect, UNLESS_SAID, answer)
            after = self._state()
            assert broken_rules(after) == []
            if _changes_nothing(step.call, answer) and not _overdue(before, self._backend.clock.now_ms):
                changed = [key for key in before | after if before.get(key) != after.get(key)]
                assert not changed, f"such a call changes nothing, and this one changed {changed}"

    async def _play_at_once(self, step: Step, call: Call) -> None:
        await self._backend.connect(step.connections)
        calls = [self._answer(call, n, n % step.connections) for n in range(1, step.times + 1)]
        answers = await asyncio.gather(*calls)
        totals = {name: value for name, value in step.expect.items() if not name.startswith("each")}
        self._must_match(totals, TOTALS_UNLESS_SAID, _totals(answers))
        for name, outcome in (("each", None), ("each_granted", "GRANTED"), ("each_refused", "REFUSED")):
            if name in step.expect:
                for answer in answers:
                    if outcome is None or answer.get("outcome") == outcome:
                        self._must_match(step.expect[name].mapping(name), {}, answer)
        assert broken_rules(self._state()) == []

    async def _answer(self, call: Call, n: int, connection: int) -> Fields:
        try:
            return answer_fields(await self._backend.call(call.verb, call.message(n), connection))
        except Fault as fault:
            return fault_fields(fault)

    def _must_match(self, said: Expected, unless_said: Expected, answer: Fields) -> None:
        unsaid = {
            name: value
            for name, value in unless_said.items()
            if name in answer and not said.keys() & {name, *SAID_AS.get(name, ())}
        }
        lines = list(differences(Value({**unsaid, **said}), answer, self._t0_ms))
        if "error" in answer.keys() - said.keys():
            lines = [f"ended with the error {answer['error']}: {answer['message']}"]
        assert not lines, "\n".join([*(f"  {line}" for line in lines), f"  the answer was {answer}"])
        self._watch(said, answer)

    async def _move_clock(self, now_ms: int) -> None:
        backend, gone_by_ms = self._backend, now_ms - self._backend.clock.now_ms
        await backend.set_time(now_ms)
        if backend.store is not None and gone_by_ms > 0:
            backend.store.command("EVAL", AGE, 0, gone_by_ms)

    def _state(self) -> Snapshot:
        """Everything in the real store; nothing where there is none, or where a server's sweeper tidies it, too."""
        store = self._backend.store
        return snapshot(store) if store is not None and self._backend.name not in TRANSPORTS else {}


def _changes_nothing(call: Call, answer: Fields) -> bool:
    """Whether the contract says that a call with this answer leaves everything as it was."""
    if answer.get("outcome") == "QUEUED":
        return False  # it takes a place in the queue, or renews it
    if call.word in READS or "error" in answer or answer.get("replayed") is True:
        return True
    request = call.message()
    if isinstance(request, quota.CheckAndReserveRequest):
        return answer["outcome"] == "REFUSED" or request.mode == quota.MODE_CHECK_ONLY
    return answer.get("applied") is False


def _overdue(state: Snapshot, now_ms: int) -> bool:
    """Whether something in the store is marked for a time that has come: then any call first sees to that."""
    due = [content for key, (_, content, _) in state.items() if key.endswith(b"}:due")]
    return any(int(score) <= now_ms for scores in due if isinstance(scores, dict) for score in scores.values())


def _totals(answers: Sequence[Fields]) -> Fields:
    """How the answers of parallel calls were, in numbers."""
    return Fields(
        granted=sum(answer.get("outcome") == "GRANTED" for answer in answers),
        queued=sum(answer.get("outcome") == "QUEUED" for answer in answers),
        refused=Whole(dict(Counter(answer["refused"] for answer in answers if answer.get("outcome") == "REFUSED"))),
        replayed=sum(answer.get("replayed") is True for answer in answers),
        applied=sum(answer.get("applied") is True for answer in answers),
        errors=Whole(dict(Counter(answer["reason"] for answer in answers if "error" in answer))),
    )
