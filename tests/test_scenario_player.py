"""The player of stories: what is written wrongly or answered otherwise is found, and said with file, story and step."""

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.protobuf.message import Message

from tests.scenario.answers import Fields
from tests.scenario.backends import InProcess, OverGrpc, backend
from tests.scenario.calls import Verb
from tests.scenario.matching import differences
from tests.scenario.player import StoryFailed, play
from tests.scenario.reading import ScenarioError, Value
from tests.scenario.story import Story, stories_of
from tests.stores import RunningStore
from tests.test_scenarios import FILES

HEAD = """\
system: shop
policy: quickstart
defaults: {tenant: acme, action: job.start}
given: {accounts: {acme: {plan: free}}}
stories:
  - name: one job
    steps:
"""


def written(folder: Path, steps: str, head: str = HEAD) -> Path:
    """A file with one story of these steps, which begin in line 8."""
    path = folder / "shop.yaml"
    lines = [f"      {line}" for line in steps.strip("\n").splitlines()]
    path.write_text(head + "\n".join(lines) + "\n")
    return path


async def played(folder: Path, steps: str, store: RunningStore | None = None) -> None:
    (story,) = stories_of(written(folder, steps))
    async with backend("redis" if store else "memory", story, store, folder) as opened:
        await play(story, opened)


REFUSED = """
- reserve: {id: j1, amounts: {credits: 60}}
- reserve: {id: j2, amounts: {credits: 60}}
  expect:
    refused: insufficient_credits
    blocking: [jobs, credits]
    refusal: {retryable: false, retry_after_ms: absent, details: {}}
    limits: {credits: {held: 60, remaining: 40}, rpm: {reset_after_ms: 60s}}
    http: {status: 402, headers: {RateLimit-Remaining: absent}, body: {error: {code: insufficient_credits, message: "Need 60 credits, you have 40."}}}
"""  # noqa: E501  # as a story may be written


async def test_a_story_that_is_kept_passes(tmp_path: Path) -> None:
    await played(tmp_path, REFUSED)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("held: 60", "held: 61", "shop.yaml:14: limits.credits.held: expected 61, was 60"),
        ("60s", "61s", "shop.yaml:14: limits.rpm.reset_after_ms: expected '61s', was 60000"),
        ("[jobs, credits]", "[credits]", "blocking: expected ['credits'], was ['jobs', 'credits']"),
        ("refused: insufficient_credits", "refused: too_many_jobs", "refused: expected 'too_many_jobs', was 'insuff"),
        ("retryable: false", "retryable: 0", "refusal.retryable: expected 0, was False"),
        ("retry_after_ms: absent", "retry_after_ms: 5", "refusal.retry_after_ms: expected 5, was absent"),
        ("status: 402", "status: absent", "http.status: expected 'absent', was 402"),
        ("code: insufficient_credits, message", "message", "http.body: expected {'error': {'message'"),
        ("you have 40", "you have 4", "http.body: expected {'error': {'code'"),
        ("remaining: 40", "remaning: 40", "limits.credits.remaning is no field of the answer, which has: id, kind"),
        ("remaining: 40", "remaning: absent", "limits.credits.remaning is no field of the answer"),
        ("refused: insufficient_credits", "error: NOT_FOUND", "error is no field of the answer, which has: outcome"),
    ],
)
async def test_a_wrong_expectation_fails_and_says_where(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    assert right in REFUSED
    with pytest.raises(StoryFailed) as failed:
        await played(tmp_path, REFUSED.replace(right, wrong))
    first, *rest = str(failed.value).splitlines()
    assert first == "shop.yaml:9: story 'shop 1: one job', step 2 (reserve), on memory:"
    assert said in "\n".join(rest)
    assert "the answer was {" in rest[-1]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("- reserve: {amounts: {credits: 101}}", "outcome: expected 'GRANTED', was 'REFUSED'"),
        ("- reserve: {amounts: {credit: 1}}", "ended with the error INVALID_ARGUMENT: amounts[credit]"),
        ("- reserve: {id: j1}\n- reserve: {id: j1}", "replayed: expected False, was True"),
        ("- reserve: {id: j1}\n- release: {id: j1}\n- release: {id: j1}", "applied: expected True, was False"),
        ("- settle: {id: j1}\n  expect: {state: SETTLED}", "ended with the error NOT_FOUND: tenant 'acme' has no hold"),
        ("- settle: {id: j1}\n  expect: {error: NOT_FOUND, reason: HOLD_STATE}", "reason: expected 'HOLD_STATE', was"),
        ("- settle: {id: ''}\n  expect: {error: INVALID_ARGUMENT, violates: []}", "violates: expected [], was frozen"),
        ("- release: {id: a}\n  expect: {error: NOT_FOUND, violates: [id]}", "violates: expected ['id'], was frozens"),
        ("- reserve: {action: api.call}\n  times: 11", "outcome: expected 'GRANTED', was 'REFUSED'"),
    ],
)
async def test_what_is_not_said_must_go_well(steps: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StoryFailed) as failed:
        await played(tmp_path, steps)
    assert said in str(failed.value)


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("{granted: 1}", "refused: expected {}, was {'too_many_jobs': 3}"),
        ("{granted: 2, refused: {too_many_jobs: 3}}", "granted: expected 2, was 1"),
        ("{granted: 1, refused: {too_many_jobs: 2}}", "refused: expected {'too_many_jobs': 2}, was"),
        ("{granted: 1, refused: {too_many_jobs: 3}, replayed: 1}", "replayed: expected 1, was 0"),
        (
            "{granted: 1, refused: {too_many_jobs: 3}, errors: {DEADLINE: 1}}",
            "errors: expected {'DEADLINE': 1}, was {}",
        ),
        ("{granted: 1, refused: {too_many_jobs: 3}, each: {outcome: GRANTED}}", "outcome: expected 'GRANTED', was"),
        ("{granted: 1, refused: {too_many_jobs: 3}, each_granted: {hold_id: a}}", "hold_id: expected 'a', was 'j"),
        ("{granted: 1, refused: {too_many_jobs: 3}, each_refused: {hold_id: a}}", "hold_id: expected 'a', was ''"),
    ],
)
async def test_parallel_calls_are_counted(expect: str, said: str, tmp_path: Path) -> None:
    call = "- parallel: {times: 4, connections: 8, call: {reserve: {id: 'j{n}'}}}\n  expect: "
    await played(tmp_path, f"{call}{{granted: 1, refused: {{too_many_jobs: 3}}}}")
    with pytest.raises(StoryFailed) as failed:
        await played(tmp_path, call + expect)
    assert "step 1 (parallel reserve)" in str(failed.value)
    assert said in str(failed.value)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("- reserv: {}", "shop.yaml:8: a step has no key 'reserv'; it has: adjust, at, audit, balances, delete, "),
        ("- reserve: {}\n  expects: {}", "shop.yaml:9: a step has no key 'expects'"),
        ("- reserve: {ammounts: {credits: 1}}", "shop.yaml:8: CheckAndReserveRequest has no field 'ammounts'; it has"),
        ("- reserve:\n    items:\n    - {product: p, size: 1}", "shop.yaml:10: Item has no field 'size'; it has: id"),
        ("- reserve: {amounts: {credits: few}}", "shop.yaml:8: amounts: 'few' is no amount"),
        ("- reserve: {amounts: {credits: 1.5}}", "shop.yaml:8: value must be a whole number, not 1.5"),
        ("- reserve: {amounts: {credits: 9223372036854775808}}", "shop.yaml:8: amounts: "),
        (
            "- reserve: {mode: CHECK}",
            "shop.yaml:8: mode is one of UNSPECIFIED, NORMAL, CHECK_ONLY, BEST_EFFORT, not 'CHECK'",
        ),
        ("- reserve: {id: 5}", "shop.yaml:8: request_id must be text, not 5"),
        ("- reserve: {id: a, id: b}", "shop.yaml:8: the key 'id' stands here twice"),
        ("- settle: {id: a, fraction: half}", "shop.yaml:8: a fraction is written delivered/reserved, not 'half'"),
        ("- settle: {id: a, final: later}", "shop.yaml:8: final must be true or false, not 'later'"),
        (
            "- reserve: {}\n  release: {id: a}",
            "shop.yaml:8: a step is one call or a time; this has reserve and release",
        ),
        ("- expect: {}", "shop.yaml:8: a step is one call or a time; this has none"),
        ("- at: T0+1\n  expect: {}", "shop.yaml:8: a step without a call only sets the time"),
        ("- at: noon", "shop.yaml:8: 'noon' is no amount; expected a duration"),
        ("- at: 5", "shop.yaml:8: a time must be text, not 5"),
        ("- reload: {}", "shop.yaml:8: reload lacks the key 'knobs'"),
        ("- parallel: {times: 2, call: {reserve: {}}}", "shop.yaml:8: parallel lacks the key 'connections'"),
        ("- parallel: {times: 2, connections: 2, call: {reserve: {}}}", "say how many of the parallel calls"),
        (
            "- parallel: {times: 2, connections: 2, call: {}}\n  expect: {granted: 1}",
            "parallel calls are all of one kind",
        ),
        (
            "- parallel: {times: 2, connections: 2, call: {reserve: {}}}\n  expect: {granted: 1, refusd: {}}",
            "shop.yaml:9: what is expected of parallel calls has no key 'refusd'",
        ),
        ("- reserve: [", "shop.yaml:9: not YAML: "),
    ],
)
def test_what_is_written_wrongly_is_named_with_its_line(steps: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as error:
        stories_of(written(tmp_path, steps))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("system: shop", "sistem: shop", "shop.yaml:1: a scenario file has no key 'sistem'"),
        ("system: shop\n", "", "a scenario file lacks the key 'system'"),
        ("name: one job", "title: one job", "shop.yaml:6: a story has no key 'title'"),
        ("{plan: free}", "{plan: free, credits: 5}", "shop.yaml:4: PutAccountRequest has no field 'credits'"),
        ("accounts:", "acounts:", "shop.yaml:4: given has no key 'acounts'"),
        ("tenant: acme", "user: acme", "shop.yaml:3: defaults has no key 'user'"),
    ],
)
def test_a_file_with_a_mistake_around_the_steps_is_named(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as error:
        stories_of(written(tmp_path, "- reserve: {}", HEAD.replace(right, wrong)))
    assert said in str(error.value)


def test_two_stories_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    twice = "stories:\n" + "  - {number: 1, name: one, steps: [reserve: {}]}\n" * 2
    with pytest.raises(ScenarioError, match=r"shop.yaml:7: there are two stories 'shop 1: one'"):
        stories_of(written(tmp_path, "", HEAD.partition("stories:")[0] + twice))


def test_a_mistake_in_a_policy_written_inline_is_told_with_its_line_in_the_story_file(tmp_path: Path) -> None:
    head = HEAD.replace("policy: quickstart", "policy:\n  policy: shop\n  colour: red")
    (story,) = stories_of(written(tmp_path, "- reserve: {}", head))
    assert story.policy.splitlines()[2:] == ["  policy: shop", "  colour: red"]


def test_a_story_begins_at_noon_unless_it_says_otherwise(tmp_path: Path) -> None:
    steps = "- at: T0+58.001\n- at: T0-1h\n- at: 2026-03-31T23:59:59.999Z"
    (story,) = stories_of(written(tmp_path, steps))
    noon_ms = 1_773_144_000_000
    assert [step.at_ms for step in story.steps[1:]] == [noon_ms + 58_001, noon_ms - 3_600_000, 1_775_001_599_999]
    (story,) = stories_of(written(tmp_path, steps, f"t0: 1970-01-02T00:00:00Z\n{HEAD}"))
    assert story.t0_ms == 86_400_000


async def test_the_story_of_the_readme_is_a_story(tmp_path: Path) -> None:
    _, block, *_ = (FILES[0].parent / "README.md").read_text().split("```yaml\n")
    path = tmp_path / "readme.yaml"
    path.write_text(block.partition("```")[0])
    (story,) = stories_of(path)
    async with backend("memory", story, None, tmp_path) as opened:
        await play(story, opened)


async def test_a_call_that_changes_what_it_must_not_is_found(tmp_path: Path, valkey: RunningStore) -> None:
    class Meddling:
        """Answers as it should, and leaves something in the store after each estimate."""

        def __init__(self, inner: InProcess) -> None:
            self.name, self.files, self.clock, self.store = inner.name, inner.files, inner.clock, inner.store
            self.connect, self.set_time, self.inner = inner.connect, inner.set_time, inner

        async def call(self, verb: Verb, request: Message, connection: int = 0) -> Message:
            answer = await self.inner.call(verb, request, connection)
            if verb.method == "Estimate":
                valkey.command("SET", "hg:{x/y}:acct", "z")
            return answer

    (story,) = stories_of(written(tmp_path, "- reserve: {id: j1}\n- estimate: {}\n  expect: {refused: too_many_jobs}"))
    async with backend("redis", story, valkey, tmp_path) as opened:
        assert isinstance(opened, InProcess)
        with pytest.raises(StoryFailed, match=r"step 2 \(estimate\), on redis:\n.*changed \[b'hg:{x/y}:acct'\]"):
            await play(story, Meddling(opened))


async def test_what_a_story_leaves_in_the_store_is_found(tmp_path: Path, valkey: RunningStore) -> None:
    (story,) = stories_of(written(tmp_path, "- reserve: {id: j1}"))
    async with AsyncExitStack() as stack:
        await play(story, await stack.enter_async_context(backend("redis", story, valkey, tmp_path)))
        valkey.command("SET", "hg:{quickstart/acme}:stray", 1)
        with pytest.raises(AssertionError, match="stray"):
            await stack.aclose()


async def test_connections_over_grpc_are_connections(tmp_path: Path, valkey: RunningStore) -> None:
    """Channels to one address would share one."""
    (story,) = stories_of(written(tmp_path, "- reserve: {id: j1}"))
    async with backend("grpcio", story, valkey, tmp_path) as opened:
        assert isinstance(opened, OverGrpc)
        await opened.connect(8)
        assert connections_to(int(opened.address.rpartition(":")[2])) == 8


def connections_to(port: int) -> int:
    """Established TCP connections to a port of 127.0.0.1, as the kernel lists them."""
    lines = (line for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:])
    rows = [line.split() for line in lines]
    return sum(remote.endswith(f"0100007F:{port:04X}") and state == "01" for _, _, remote, state, *_ in rows)


def flipped(expected: Value) -> Iterator[Value]:
    """The expectation with one of its leaves changed, once for each."""
    match expected.data:
        case dict() as entries if entries:
            for key, value in entries.items():
                for wrong in flipped(value):
                    yield expected.made({**entries, key: wrong})
        case dict():
            yield expected.made({"something": expected.made(1)})
        case list() as values:
            yield expected.made([*values, expected.made("something more")])
        case bool(truth):
            yield expected.made(not truth)
        case int() | float() as amount:
            yield expected.made(amount + 1)
        case other:
            yield expected.made(f"not {other}")


def can_fail(wrong: Value, answer: Fields, t0_ms: int) -> bool:
    """Whether the wrong expectation is found out: it differs, or is no number where one is expected."""
    try:
        return any(differences(wrong, answer, t0_ms))
    except ScenarioError:
        return True


@pytest.mark.parametrize("story", [pytest.param(s, id=s.title) for file in FILES for s in stories_of(file)])
async def test_no_expectation_of_any_story_is_idle(story: Story, tmp_path: Path) -> None:
    """Each leaf of each expectation, turned round, fails against the answer that it was written for."""
    seen: list[tuple[Mapping[str, Value], Fields]] = []
    async with backend("memory", story, None, tmp_path) as opened:
        await play(story, opened, lambda expected, answer: seen.append((expected, answer)))
    wrongs = [(wrong, answer) for said, answer in seen if said for wrong in flipped(Value(dict(said)))]
    assert wrongs, "a story that expects nothing"
    for wrong, answer in wrongs:
        assert can_fail(wrong, answer, story.t0_ms), f"{wrong.plain()} is as good"
