"""The assembler, and what every script promises in its header."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Final

import pytest

from server.domain.act import Act, Deed
from server.domain.errors import IdReusedError, TenantInUseError
from server.engine.books import Booking
from server.engine.client import StoreConnection
from server.engine.hands import Adjustment, Reset
from server.engine.pipeline import Heard, Reply, ScriptSource, Word
from server.engine.redis_engine import RedisEngine
from server.engine.scripts import CONSTANTS, LUA, SCRIPT_NAMES, assemble, inline_constants, script
from server.engine.store_errors import StoreError
from tests.conftest import Connect
from tests.policies_for_tests import TERMS, balance, policy, slots, window
from tests.stores import RunningStore
from tests.tenants import WITHIN_S, Clock, Tenant

FILES: Final = sorted(LUA.rglob("*.lua"))


def folder_with(tmp_path: Path, **files: str) -> Path:
    """A folder of scripts; a name with a leading `_` is an include."""
    (tmp_path / "include").mkdir()
    for name, text in files.items():
        place = tmp_path / "include" / f"{name[1:]}.lua" if name.startswith("_") else tmp_path / f"{name}.lua"
        place.write_text(text)
    return tmp_path


# the assembler


def test_an_include_stands_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, main="#!lua\n--@include a\nreturn a\n", _a="local a = 1\n")

    assert assemble("main", folder) == "#!lua\nlocal a = 1\nreturn a\n"


def test_an_include_may_need_others_which_come_first_and_once(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        main="--@include a\n--@include b\n--@include base\nreturn a + b\n",
        _a="--@include base\nlocal a = base\n",
        _b="--@include base\nlocal b = base\n",
        _base="local base = 1\n",
    )

    assert assemble("main", folder) == "local base = 1\nlocal a = base\nlocal b = base\nreturn a + b\n"


def test_a_missing_include_is_named_with_the_line_that_asks_for_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, main="#!lua\n--@include a\n", _a="\n\n--@include b\n")

    with pytest.raises(ValueError, match=r"a\.lua:3: there is no b\.lua in include/"):
        assemble("main", folder)


def test_an_include_that_needs_itself_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, main="--@include a\n", _a="--@include b\n", _b="local b\n--@include a\n")

    with pytest.raises(ValueError, match=r"b\.lua:2: a\.lua includes itself"):
        assemble("main", folder)


def test_only_a_whole_line_is_an_include(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, main="-- see --@include a\n")

    assert assemble("main", folder) == "-- see --@include a\n"


# constants


def test_a_constant_is_sent_as_its_value_and_its_line_stays_empty() -> None:
    """An error of the store names the line of the assembled script."""
    assert inline_constants("local SIZE = 13\nreturn SIZE * 2\n") == "\nreturn 13 * 2\n"


def test_a_line_may_name_several_constants() -> None:
    text = "local FIRST, SECOND, THIRD = 1, -2, 30\nreturn { THIRD, FIRST, SECOND }\n"

    assert inline_constants(text) == "\nreturn { 30, 1, -2 }\n"


def test_a_constant_may_be_a_text() -> None:
    text = "local FORM, SIZE = '>I7I6', 13\nreturn struct.unpack(FORM, raw, SIZE)\n"

    assert inline_constants(text) == "\nreturn struct.unpack('>I7I6', raw, 13)\n"


def test_what_is_named_in_a_key_is_worked_out_where_it_is_wanted() -> None:
    text = "local SLOT = string.sub(KEYS[4], 1, -4) .. 'x'\nreturn SLOT\n"

    assert inline_constants(text) == "\nreturn (string.sub(KEYS[4], 1, -4) .. 'x')\n"


def test_a_constants_name_inside_another_name_is_untouched() -> None:
    text = "local ROW, ROW_SIZE = 3, 6\nreturn ROW_SIZE + ROW + ROWS + MY_ROW + row + t.ROW_1\n"

    assert inline_constants(text) == "\nreturn 6 + 3 + ROWS + MY_ROW + row + t.ROW_1\n"


def test_a_constant_counts_wherever_its_line_stands() -> None:
    text = "local A = 1\nlocal x = A + B\nlocal B = 2\nreturn x\n"

    assert inline_constants(text) == "\nlocal x = 1 + 2\n\nreturn x\n"


@pytest.mark.parametrize(
    "text",
    [
        "return 1\n",
        "local lower = 1\nreturn lower\n",
        "local Mixed = 1\nreturn Mixed\n",
        "local COMPUTED = size(2)\nreturn COMPUTED\n",
        "local ARGUMENT = string.sub(ARGV[1], 2)\nreturn ARGUMENT\n",
        "  local INNER = 1\n  return INNER\n",
        "local UNSET\nreturn UNSET\n",
    ],
)
def test_a_script_without_constants_is_sent_as_it_is(text: str) -> None:
    assert inline_constants(text) == text


def test_a_constant_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        inline_constants("local ONE, OTHER = 1\n")


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_constants_are_literals_named_once_and_in_no_text(name: str) -> None:
    """Else a value would stand for another, or a text would change on its way to the store."""
    text = assemble(name)
    lines = CONSTANTS.findall(text)
    names = [constant for names, _ in lines for constant in names.split(", ")]
    code = re.sub(r"--\[\[[\s\S]*?\]\]|--.*", "", text)
    texts = re.findall(r"'[^'\n]*'", code)

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"-?\d+|'[^']*'", value) for _, values in lines for value in values.split(", "))
    assert not [(constant, found) for constant in names for found in texts if re.search(rf"\b{constant}\b", found)]


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_script_is_named_by_the_digest_of_what_is_sent(name: str) -> None:
    ready = script(name)

    assert ready.source == inline_constants(assemble(name)).encode()
    assert ready.sha == hashlib.sha1(ready.source, usedforsecurity=False).hexdigest().encode()


def test_every_script_is_listed_and_every_include_used() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} == set(SCRIPT_NAMES)
    wanted = {
        line.split()[1] for path in FILES for line in path.read_text().splitlines() if line.startswith("--@include ")
    }
    assert {path.stem for path in (LUA / "include").glob("*.lua")} == wanted


# rules of the scripts


FLAGS: Final = {
    "settle": " flags=allow-oom",
    "release": " flags=allow-oom",
    "reap": " flags=allow-oom",
    "trim": " flags=allow-oom",
    "deallocate": " flags=allow-oom",
    "lease": " flags=allow-oom",
    "tell": " flags=allow-oom",
    "renew": " flags=allow-oom",
    "reset": " flags=allow-oom",
    "delete": " flags=allow-oom",
    "usage": " flags=no-writes",
    "audit": " flags=no-writes",
    "find": " flags=no-writes",
}


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_the_first_line_says_what_the_store_may_do_when_it_is_full(name: str) -> None:
    """Giving back works in a full store, taking does not, reading never writes."""
    assert assemble(name).splitlines()[0] == "#!lua" + FLAGS.get(name, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("word", ["tostring", "cjson", "pcall", "loadstring", "redis.pcall", "math.random"])
def test_what_loses_digits_or_hides_errors_is_not_used(path: Path, word: str) -> None:
    """But for PUBLISH: that nobody may hear of a note is no reason not to write it."""
    code = "\n".join(line.partition("--")[0] for line in path.read_text().splitlines())

    assert not re.search(rf"(?<![\w.]){re.escape(word)}\b(?!\('PUBLISH')", code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_one_include_builds_keys(path: Path) -> None:
    if path.stem != "keys":
        assert not re.search(r"PREFIX|'hg:|\"hg:", path.read_text())


# the header of each script and the engine's calls


class Header:
    """What a script's first comment promises."""

    def __init__(self, name: str) -> None:
        text = (LUA / f"{name}.lua").read_text().partition("--[[")[2].partition("]]")[0]
        sections = re.split(r"^(Keys|Args|Reply|Writes|Example)\b", text, flags=re.MULTILINE)
        parts = dict(zip(sections[1::2], sections[2::2], strict=True))
        self.kinds: list[str | None] = []
        """What each key is, None where the script does not look at it."""
        self.further: str | None = None
        """What all keys beyond those are."""
        for first, last, open_end, what in re.findall(r"(\d+)(?:-(\d+))?(\.\.)? (.+?)(?=  |,|\n|$)", parts["Keys"]):
            kind = re.search(r"\((string|hash|sorted set)\)", what)
            if open_end:
                self.further = kind[1] if kind else None
            else:
                self.kinds += [kind[1] if kind else None] * (int(last or first) - int(first) + 1)
        args = re.findall(r"^ *(?:Args +)?(\d) +(when )?", "Args" + parts["Args"], flags=re.MULTILINE)
        self.args = {sum(not optional for _, optional in args), len(args)}
        self.replies = {
            (int(first) if first.isdigit() else None, 1 + len(rest.split(",")) if rest else 1)
            for first, rest in re.findall(r"\{(\w+)(?:, ([^{}]*))?\}", parts["Reply"])
        }
        self.writes = parts["Writes"]


class Recorder:
    """Passes calls on to a store and keeps what was sent and answered."""

    def __init__(self, store: StoreConnection) -> None:
        self.store = store
        self.calls: list[tuple[str, Sequence[bytes], Sequence[Word], list[Reply]]] = []

    async def evalsha(
        self,
        called: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Reply:
        reply = await self.store.evalsha(called, keys, args, timeout_s, heard)
        name = next(name for name in SCRIPT_NAMES if script(name) is called)
        self.calls.append((name, keys, args, reply))
        return reply

    async def call(self, *words: Word, timeout_s: float = 1.0) -> Reply:
        return await self.store.call(*words, timeout_s=timeout_s)

    async def close(self) -> None:
        await self.store.close()


async def play(tenant: Tenant) -> None:
    """A little of everything, so that each script is called and answers in several ways."""
    await tenant.open(credits=100)
    await tenant.grant("a", tokens=5, credits=10)
    await tenant.grant("b", tokens=5, credits=10)
    await tenant.refusal("c", tokens=5, credits=10)
    await tenant.reserve(tenant.plan("a", tokens=5, credits=10))
    await tenant.renew("a", credits=1)
    await tenant.raise_to("a", tokens=9, credits=11)
    await tenant.raise_to("a", tokens=9999)
    await tenant.settle("a", {"credits": 3})
    await tenant.settle("a", {"credits": 3})
    await tenant.release("b")
    await tenant.find("a")
    await tenant.engine.books.release_allocation(tenant.ref, "a", "", WITHIN_S)
    await tenant.engine.queues.renew(tenant.ref, ["line"], ["a"], 1000, WITHIN_S)
    await tenant.engine.queues.ticket(tenant.plan("a", tokens=5), "a", None, WITHIN_S)
    await tenant.grant("late", tokens=1, credits=1)
    tenant.clock.advance(TERMS.lease_ms)
    await tenant.figures()
    seen = await tenant.engine.audit(tenant.ref, ["credits~b"], WITHIN_S)
    totals = {"credits~b": seen.balances["credits~b"].totals}
    repairing = Act(Deed.REPAIR, "ops", "why")
    assert await tenant.engine.hands.repair(tenant.ref, totals, seen.balances, repairing, WITHIN_S)
    assert await tenant.engine.trim_ledger(tenant.ref, 1, WITHIN_S) == 1
    await tenant.engine.settle(tenant.ref, "late", None, final=True, within_s=WITHIN_S, allocation="named")
    await tenant.engine.books.release_allocation(tenant.ref, "named", "", WITHIN_S)
    await tenant.engine.books.record(tenant.ref, Booking(tenant.account.version, (), ()), WITHIN_S)
    for owner in ("one", "another"):
        await tenant.engine.feed.hold_lease(owner, 60_000, WITHIN_S)
    for _ in range(2):
        await tenant.engine.feed.tell(tenant.ref, "", "0-1", WITHIN_S)
    act = Act(Deed.RESET, "ops", "why", request_id="by hand")
    forms = {check.limit.id: check for check in tenant.plan(tokens=1, credits=1).shape.checks}
    for version in (tenant.account.version, 7):
        for units in (5, 5, 6):
            adjustment = Adjustment(forms["credits"], version, units, sets=False)
            with suppress(IdReusedError):
                await tenant.engine.hands.adjust(tenant.ref, adjustment, act, b"%d" % units, WITHIN_S)
            reset = Reset(forms["tpm"], version, every=False)
            act = act._replace(request_id=f"reset {units}")
            with suppress(IdReusedError):
                await tenant.engine.hands.reset(tenant.ref, reset, act, b"%d" % version, WITHIN_S)
    await tenant.grant("last", tokens=1, credits=1)
    await tenant.engine.release(tenant.ref, "last", WITHIN_S, act)
    await tenant.grant("kept", tokens=1, credits=1)
    for forced in (False, True, True):
        with suppress(TenantInUseError):
            await tenant.engine.hands.delete(tenant.ref, act, forced=forced, place="", within_s=WITHIN_S)
    await tenant.engine.hands.delete(tenant.ref, act, forced=True, place="0", within_s=WITHIN_S)


async def test_headers_tell_the_keys_arguments_and_replies_that_pass(
    store: RunningStore, clock: Clock, connect: Connect
) -> None:
    recorder = Recorder(await connect(store))
    lab = policy(
        window("rpm", 50), window("tpm", 50, "tokens", scope=("project",)), slots("jobs", 2), balance("credits")
    )
    await play(Tenant(RedisEngine(recorder, clock=clock), clock, lab))

    assert {name for name, *_ in recorder.calls} == set(SCRIPT_NAMES)
    for name, keys, args, reply in recorder.calls:
        header = Header(name)
        assert len(keys) == len(header.kinds) or (header.further and len(keys) > len(header.kinds)), (name, keys)
        assert len(args) in header.args, (name, args)
        first = reply[0] if (reply[0], len(reply)) in header.replies else None
        assert (first, len(reply)) in header.replies, (name, reply, header.replies)
        assert not any(part is None or isinstance(part, float) for part in reply)
        for key, kind in zip_longest(keys, header.kinds, fillvalue=header.further):
            stored = {"zset": "sorted set"}.get(
                found := store.command("TYPE", str(key) if not isinstance(key, bytes) else key).decode(), found
            )
            assert kind is None or stored in {kind, "none"}, (name, key)


async def test_one_round_trip(cluster: RunningStore, clock: Clock, connect: Connect) -> None:
    """Ten limits in several scopes, decided by one script call."""
    cluster.command("FLUSHALL")
    recorder = Recorder(await connect(cluster))
    scopes: list[tuple[str, ...]] = [(), ("project",), ("model",), ("project", "model")]
    limits = [window(f"w{n}", 9, scope=scopes[n % 4]) for n in range(7)]
    ten = policy(*limits, slots("jobs", 2), slots("own", 2, scope=("model",)), balance("credits"))
    tenant = Tenant(RedisEngine(recorder, clock=clock), clock, ten)

    granted = await tenant.grant("h", credits=0)

    assert len(granted.looks) == 10
    assert [name for name, *_ in recorder.calls] == ["reserve"]


async def test_the_store_holds_exactly_our_scripts(valkey: RunningStore, clock: Clock, connect: Connect) -> None:
    valkey.command("FLUSHALL")
    valkey.command("SCRIPT", "FLUSH")
    connection = await connect(valkey)
    await play(
        Tenant(
            RedisEngine(connection, clock=clock),
            clock,
            policy(slots("jobs", 2), balance("credits"), window("tpm", 50, "tokens")),
        )
    )

    assert valkey.command("SCRIPT", "EXISTS", *(script(name).sha for name in SCRIPT_NAMES)) == [1] * len(SCRIPT_NAMES)
    assert b"number_of_cached_scripts:%d\r" % len(SCRIPT_NAMES) in valkey.command("INFO", "memory")


@pytest.mark.parametrize("name", ["usage", "find"])
async def test_a_reading_script_cannot_write(name: str, valkey: RunningStore, connect: Connect) -> None:
    """The flag in its first line is what the store enforces."""
    connection = await connect(valkey)
    spoilt = assemble(name).split("\n", 1)[0] + "\nreturn redis.call('SET', KEYS[1], 'x')\n"
    with pytest.raises(StoreError, match="read-only"):
        await connection.call("EVAL", spoilt, 1, "key")
