"""Which stores may hold budgets, and what the others are told."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest

from server.engine.client import StoreConnection
from server.engine.pipeline import Reply, StoreCall, Word
from server.engine.store_checks import StoreFacts, check_store
from server.engine.store_errors import StoreUnavailable, StoreUnsuitable, error_from_reply
from tests.stores import REDIS, VALKEY, RunningStore, running_store

HERE = "redis://store:6379/0"
HELLO: Mapping[str, object] = {"server": b"redis", "version": b"7.0.15", "mode": b"standalone", "role": b"master"}


@pytest.fixture(params=[(VALKEY, "valkey"), (REDIS, "redis")], ids=["valkey", "redis"])
def named_store(request: pytest.FixtureRequest) -> Iterator[tuple[RunningStore, str]]:
    binary, name = request.param
    if binary is None:
        pytest.skip("no redis-server on the PATH")
    with running_store("--appendonly", "yes", binary=binary) as store:
        yield store, name


async def test_a_good_store_is_described(named_store: tuple[RunningStore, str]) -> None:
    store, name = named_store
    facts = await check(store.url)
    assert (facts.server, facts.cluster_enabled, facts.notes) == (name, False, ())
    assert facts.version >= (7, 0, 15)


async def test_a_store_that_evicts_is_refused_with_the_command_that_mends_it(
    named_store: tuple[RunningStore, str],
) -> None:
    store, _ = named_store
    store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnsuitable, match="CONFIG SET maxmemory-policy noeviction") as refused:
        await check(store.url)
    assert "allkeys-lru" in str(refused.value)
    assert HERE in str(refused.value)
    store.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await check(store.url)


async def test_a_replica_is_refused(named_store: tuple[RunningStore, str]) -> None:
    store, _ = named_store
    store.command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnsuitable, match="read-only replica"):
        await check(store.url)


async def test_a_store_without_a_file_is_noted(named_store: tuple[RunningStore, str]) -> None:
    store, _ = named_store
    store.command("CONFIG", "SET", "appendonly", "no")
    (note,) = (await check(store.url)).notes
    assert "set appendonly yes" in note


async def test_where_info_is_forbidden_the_rest_is_checked_and_a_note_left(
    named_store: tuple[RunningStore, str],
) -> None:
    store, name = named_store
    store.command("ACL", "SETUSER", "limited", "on", ">secret", "~hg:*", "+@read", "+@write", "+ping", "-@dangerous")
    limited = store.url.replace("unix://", "unix://limited:secret@")
    facts = await check(limited)
    assert facts.server == name
    (note,) = facts.notes
    assert "maxmemory-policy" in note
    store.command("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnsuitable, match="read-only replica"):
        await check(limited)


async def test_a_cluster_of_one_node_is_accepted() -> None:
    with running_store(cluster=True) as store:
        assert (await check(store.url)).cluster_enabled


@pytest.mark.parametrize(
    ("hello", "info", "complaint"),
    [
        ({"version": b"6.2.14"}, "", "is redis 6.2.14; upgrade it to 7.0"),
        ({"server": b"valkey", "version": b"7.1.9"}, "", "upgrade it to 7.2"),
        ({"server": b"memcached"}, "", "calls itself 'memcached'"),
        ({}, "redis_version:7.4.0\r\ndragonfly_version:df-v1.30.0\r\n", "is Dragonfly"),
        ({"mode": b"sentinel"}, "", "SENTINEL GET-MASTER-ADDR-BY-NAME"),
        ({"mode": b"cluster"}, "cluster_size:3\r\n", "one of several nodes"),
    ],
)
async def test_stores_that_we_cannot_start_here_are_refused_by_what_they_answer(
    hello: dict[str, object], info: str, complaint: str
) -> None:
    with pytest.raises(StoreUnsuitable, match=complaint) as refused:
        await check_store(answers({**HELLO, **hello}, info), HERE)
    assert HERE in str(refused.value)


async def test_a_server_before_hello_is_too_old() -> None:
    async def call(*words: Word) -> Reply:
        raise error_from_reply(f"ERR unknown command `{words[0]!s}`")

    with pytest.raises(StoreUnsuitable, match=r"use Redis 7\.0 or Valkey 7.2, or newer"):
        await check_store(call, HERE)


async def test_a_loading_store_is_waited_for() -> None:
    with pytest.raises(StoreUnavailable) as refused:
        await check_store(answers(HELLO, "loading:1\r\n"), HERE)
    assert refused.value.reason == "loading"


async def test_a_release_candidate_counts_by_its_numbers() -> None:
    facts = await check_store(answers({**HELLO, "version": b"9.0.0-rc1"}, "maxmemory_policy:noeviction\r\n"), HERE)
    assert facts.version == (9, 0)


def answers(hello: Mapping[str, object], info: str) -> StoreCall:
    """A store that says this of itself."""

    async def call(*words: Word) -> Reply:
        if words == ("HELLO",):
            return [part for name, value in hello.items() for part in (name.encode(), value)]
        return info.encode()

    return call


async def check(url: str) -> StoreFacts:
    async with connected(url) as connection:
        return await check_store(connection.call, HERE)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[StoreConnection]:
    connection = StoreConnection(url)
    await connection.connect()
    try:
        yield connection
    finally:
        await connection.close()
