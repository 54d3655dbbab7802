"""A scenario file: its policy, and stories made of steps. `tests/scenarios/README.md` shows how one is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.scenario.calls import VERBS, Call
from tests.scenario.quantities import number
from tests.scenario.reading import ScenarioError, Value, excerpt, read
from tests.stores import ROOT

T0: Final = "2026-03-10T12:00:00.000Z"

FILE_KEYS: Final = ("system", "policy", "knobs", "t0", "defaults", "given", "stories")
STORY_KEYS: Final = ("number", "name", "knobs", "t0", "defaults", "given", "steps")
GIVEN_KEYS: Final = ("accounts", "holds")
DEFAULT_KEYS: Final = ("tenant", "action", "scope")
STEP_KEYS: Final = ("at", "expect", "times", "via", "parallel", *VERBS)
PARALLEL_KEYS: Final = ("times", "connections", "call")
TOTALS: Final = (
    "granted",
    "queued",
    "refused",
    "replayed",
    "applied",
    "errors",
    "each",
    "each_granted",
    "each_refused",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens: the clock is set, then calls are made.

    `times` calls come one after the other on connection `via`, or all at once over `connections` of them. `knobs`
    are what a reload finds.
    """

    number: int
    where: str
    at_ms: int | None = None
    call: Call | None = None
    knobs: Mapping[str, str] | None = None
    times: int = 1
    via: int = 0
    connections: int = 0
    expect: Mapping[str, Value] = field(default_factory=dict)

    @property
    def title(self) -> str:
        word = self.call.word if self.call else "at"
        return f"step {self.number} ({'parallel ' if self.connections else ''}{word})"


@dataclass(frozen=True, slots=True)
class Story:
    """Steps on a store of their own, with the clock standing at `t0_ms` until a step moves it."""

    system: str
    number: str
    """As in the system's document, else its place in the file."""
    name: str
    where: str
    policy: str
    """A name of policies/, or the policy itself."""
    knobs: Mapping[str, str]
    t0_ms: int
    steps: Sequence[Step]

    @property
    def title(self) -> str:
        return f"{self.system} {self.number}: {self.name}"


def stories_of(path: Path) -> Sequence[Story]:
    """All stories of a file; raises ScenarioError."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    text = path.read_text()
    file = read(text, name).mapping("a scenario file", FILE_KEYS, ("system", "policy", "stories"))
    if isinstance(file["policy"].data, dict):
        file["policy"] = file["policy"].made(excerpt(text, file["policy"]))
    stories = [_story(file, story, at) for at, story in enumerate(file["stories"].items("stories"), 1)]
    titles: set[str] = set()
    for story in stories:
        if story.title in titles:
            raise ScenarioError(f"{story.where}: there are two stories {story.title!r}")
        titles.add(story.title)
    return stories


def _story(file: Mapping[str, Value], value: Value, place: int) -> Story:
    story = value.mapping("a story", STORY_KEYS, ("name", "steps"))
    t0 = story.get("t0") or file.get("t0") or value.made(T0)
    writer = _Writer(
        t0_ms=_time(t0, 0),
        defaults=_defaults(file) | _defaults(story),
    )
    given = story.get("given") or file.get("given")
    return Story(
        system=file["system"].text("system"),
        number=str(story["number"].plain()) if "number" in story else str(place),
        name=story["name"].text("name"),
        where=value.where,
        policy=file["policy"].text("policy"),
        knobs=_knobs(file.get("knobs")) | _knobs(story.get("knobs")),
        t0_ms=writer.t0_ms,
        steps=_numbered([*writer.given(given), *map(writer.step, story["steps"].items("steps"))]),
    )


def _defaults(container: Mapping[str, Value]) -> dict[str, Value]:
    return container["defaults"].mapping("defaults", DEFAULT_KEYS) if "defaults" in container else {}


def _knobs(value: Value | None) -> dict[str, str]:
    return {name: str(knob.plain()) for name, knob in value.mapping("knobs").items()} if value else {}


def _time(value: Value, t0_ms: int) -> int:
    try:
        return number(value.text("a time"), t0_ms)
    except ValueError as error:
        raise value.error(f"{error}, or a time such as T0+58.000 or {T0}") from error


def _numbered(steps: Sequence[Step]) -> Sequence[Step]:
    """Steps with their places; those of `given` are numbered from below 1."""
    given = sum(step.number == 0 for step in steps)
    return [replace(step, number=place - given) for place, step in enumerate(steps, 1)]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes steps of what a story says."""

    t0_ms: int
    defaults: Mapping[str, Value]

    def given(self, value: Value | None) -> Iterator[Step]:
        """Accounts to create and holds to make, which must all be granted."""
        if value is None:
            return
        given = value.mapping("given", GIVEN_KEYS)
        for key, word, id_key in (("accounts", "put_account", "tenant"), ("holds", "reserve", "id")):
            for name, fields in given[key].mapping(key).items() if key in given else ():
                named = fields.made({id_key: fields.made(name)} | fields.mapping(key))
                yield Step(0, fields.where, call=self._call(word, named))

    def step(self, value: Value) -> Step:
        entries = value.mapping("a step", STEP_KEYS)
        words = [word for word in ("parallel", *VERBS) if word in entries]
        if len(words) > 1 or not (words or "at" in entries):
            raise value.error(f"a step is one call or a time; this has {' and '.join(words) or 'none'}")
        step = Step(1, value.where, at_ms=_time(entries["at"], self.t0_ms) if "at" in entries else None)
        if not words:
            if len(entries) > 1:
                raise value.error("a step without a call only sets the time: it has no expect, times or via")
            return step
        expect = entries["expect"].mapping("expect") if "expect" in entries else {}
        (word,) = words
        if word == "parallel":
            return self._parallel(step, entries["parallel"], expect)
        knobs = None
        if word == "reload":
            reload = entries["reload"].mapping("reload", ("knobs",), ("knobs",))
            knobs, entries["reload"] = _knobs(reload["knobs"]), value.made({})
        return replace(
            step,
            call=self._call(word, entries[word]),
            knobs=knobs,
            times=entries["times"].whole("times") if "times" in entries else 1,
            via=entries["via"].whole("via") if "via" in entries else 0,
            expect=expect,
        )

    def _parallel(self, step: Step, value: Value, expect: Mapping[str, Value]) -> Step:
        entries = value.mapping("parallel", PARALLEL_KEYS, PARALLEL_KEYS)
        value.made(dict(expect)).mapping("what is expected of parallel calls", TOTALS)
        if not expect.keys() & {"granted", "applied"}:
            raise value.error("say how many of the parallel calls are expected to be granted or applied")
        calls = entries["call"].mapping("call", tuple(VERBS))
        if len(calls) != 1:
            raise entries["call"].error("parallel calls are all of one kind")
        ((word, fields),) = calls.items()
        return replace(
            step,
            call=self._call(word, fields),
            times=entries["times"].whole("times"),
            connections=entries["connections"].whole("connections"),
            expect=expect,
        )

    def _call(self, word: str, fields: Value) -> Call:
        call = Call(word, fields, self.defaults, self.t0_ms)
        call.message()  # so that what is written wrongly is found before anything is played
        return call
