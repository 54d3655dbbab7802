"""What a failed call proves, read from the replies of real stores."""

from collections.abc import Iterator

import pytest

from server.engine.client import StoreConnection
from server.engine.store_errors import (
    Executed,
    OutcomeUnknown,
    ScriptFailed,
    StoreError,
    StoreUnavailable,
    StoreUnsuitable,
    error_from_reply,
)
from tests.stores import REDIS, VALKEY, RunningStore, running_store

WRITE = "#!lua\nreturn redis.call('SET', KEYS[1], '1')"
WRITE_WITHOUT_HEADER = WRITE.removeprefix("#!lua\n")
WRITE_THEN_FAIL = "#!lua\nredis.call('SET', KEYS[1], '1') return redis.call('HGET', KEYS[1], 'field')"


@pytest.fixture(scope="module", params=[VALKEY, REDIS], ids=["valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[RunningStore]:
    if request.param is None:
        pytest.skip("no redis-server on the PATH")
    with running_store(binary=request.param) as store:
        store.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get", "+ping")
        yield store


@pytest.fixture
def roomy_again(store: RunningStore) -> Iterator[None]:
    yield
    for name in ("maxmemory", "min-replicas-to-write"):
        store.command("CONFIG", "SET", name, 0)
    store.command("FLUSHALL")


@pytest.mark.usefixtures("roomy_again")
@pytest.mark.parametrize(
    ("settings", "script", "expected", "reason", "written"),
    [
        (("maxmemory", 1), WRITE, StoreUnavailable, "oom", False),
        (("min-replicas-to-write", 1), WRITE, StoreUnavailable, "noreplicas", False),
        (("maxmemory", 1), WRITE_WITHOUT_HEADER, ScriptFailed, "oom", False),
        (("maxmemory", 0), WRITE_THEN_FAIL, ScriptFailed, "wrongtype", True),
        (("maxmemory", 0), "#!lua\nerror('a bug')", ScriptFailed, "err", False),
        (("maxmemory", 0), "#!lua\nreturn redis.error_reply('CORRUPT cell')", ScriptFailed, "corrupt", False),
        (("maxmemory", 0), "#!lua\nreturn nonsense(", ScriptFailed, "err", False),
    ],
)
async def test_a_refusal_before_the_first_line_is_told_from_a_failure_inside(  # noqa: PLR0913, PLR0917  # a table
    store: RunningStore,
    settings: tuple[str, int],
    script: str,
    expected: type[StoreError],
    reason: str,
    written: bool,  # noqa: FBT001  # a column
) -> None:
    """The same word, OOM, proves nothing was done or nothing at all: a script without header dies in the middle."""
    store.command("CONFIG", "SET", *settings)
    connection = StoreConnection(store.url)
    await connection.connect()
    with pytest.raises(StoreError) as failed:
        await connection.call("EVAL", script, 1, "key")
    await connection.close()
    assert type(failed.value) is expected
    assert failed.value.reason == reason
    assert store.command("EXISTS", "key") == written


async def test_a_missing_right_is_not_executed_and_named(store: RunningStore) -> None:
    connection = StoreConnection(store.url.replace("unix://", "unix://reader:secret@"))
    await connection.connect()
    with pytest.raises(StoreUnavailable, match=r"lacks a right.*'set'") as refused:
        await connection.call("SET", "key", 1)
    await connection.close()
    assert refused.value.reason == "noperm"


@pytest.mark.parametrize(
    ("text", "expected", "executed", "reason"),
    [
        ("MOVED 3999 127.0.0.1:6381", StoreUnavailable, Executed.NO, "moved"),
        ("ASK 3999 127.0.0.1:6381", StoreUnavailable, Executed.NO, "ask"),
        ("READONLY You can't write against a read only replica.", StoreUnavailable, Executed.NO, "readonly"),
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable, Executed.NO, "loading"),
        ("MISCONF Errors writing to the AOF file: No space left", StoreUnavailable, Executed.NO, "misconf"),
        ("MASTERDOWN Link with MASTER is down", StoreUnavailable, Executed.NO, "masterdown"),
        ("TRYAGAIN Multiple keys request during rehashing", StoreUnavailable, Executed.NO, "tryagain"),
        ("BUSY Redis is busy running a script.", StoreUnavailable, Executed.NO, "busy"),
        ("BUSYKEY Target key name already exists.", ScriptFailed, Executed.PERHAPS_PARTLY, "busykey"),
        ("CLUSTERDOWN Hash slot not served", StoreUnavailable, Executed.NO, "clusterdown"),
        ("NOSCRIPT No matching script.", StoreUnavailable, Executed.NO, "noscript"),
        ("ERR max number of clients reached", StoreUnavailable, Executed.NO, "max_clients"),
        ("NOAUTH Authentication required.", StoreUnsuitable, Executed.NO, "noauth"),
        ("WRONGPASS invalid username-password pair", StoreUnsuitable, Executed.NO, "wrongpass"),
        ("ERR unknown command 'FOO'", ScriptFailed, Executed.PERHAPS_PARTLY, "err"),
        ("", ScriptFailed, Executed.PERHAPS_PARTLY, ""),
    ],
)
def test_each_error_reply_says_whether_the_call_was_executed(
    text: str, expected: type[StoreError], executed: Executed, reason: str
) -> None:
    error = error_from_reply(text)
    assert type(error) is expected
    assert (error.executed, error.reason) == (executed, reason)
    assert text in str(error)


def test_no_answer_means_unknown() -> None:
    assert OutcomeUnknown("no answer", reason="timeout").executed is Executed.UNKNOWN
