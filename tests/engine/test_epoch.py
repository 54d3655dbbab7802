"""A known store that comes back empty is not trusted until somebody says so."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.engine.client import StoreConnection
from server.engine.epoch import EpochGuard, EpochState, memory_path
from server.engine.pipeline import Reply, Word
from server.engine.store_errors import StoreError, StoreLost, StoreUnsuitable
from tests.stores import REDIS, VALKEY, RunningStore, running_store
from tests.waiting import until


@pytest.fixture(params=[VALKEY, REDIS], ids=["valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[RunningStore]:
    if request.param is None:
        pytest.skip("no redis-server on the PATH")
    with running_store("--appendonly", "yes", binary=request.param) as store:
        yield store


@pytest.fixture
async def connection(store: RunningStore) -> AsyncIterator[StoreConnection]:
    connection = StoreConnection(store.url)
    await connection.connect()
    yield connection
    await connection.close()


async def test_a_first_contact_agrees_on_an_epoch_and_remembers_it(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    guard = EpochGuard(connection.call, tmp_path / "state" / "epoch.json")
    assert not guard.trusted
    with pytest.raises(StoreLost, match="not looked at yet"):
        guard.require_trusted()
    state = await guard.verify()
    guard.require_trusted()
    assert state.trusted
    assert state.stored is not None
    assert len(state.stored) == 16
    assert store.command("HGET", "hg:epoch", "id") == state.stored.encode()
    assert await EpochGuard(connection.call, tmp_path / "state" / "epoch.json").verify() == state


@pytest.mark.parametrize("place", ["a file/epoch.json", "folder"])
async def test_where_nothing_can_be_remembered_the_store_is_not_put_to_use(
    connection: StoreConnection, tmp_path: Path, place: str
) -> None:
    """A read-only disk, say: the error names the file and the setting."""
    (tmp_path / "a file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    guard = EpochGuard(connection.call, tmp_path / place)
    for look in (guard.verify, guard.adopt):
        with pytest.raises(StoreUnsuitable, match=r"cannot be (read|written): .* --data-dir or HOLDGATE_DATA_DIR"):
            await look()
    assert not guard.trusted


async def test_a_second_server_takes_the_epoch_that_it_finds(connection: StoreConnection, tmp_path: Path) -> None:
    first = await EpochGuard(connection.call, tmp_path / "one.json").verify()
    second = await EpochGuard(connection.call, tmp_path / "two.json").verify()
    assert first == second
    assert second.trusted


async def test_of_two_servers_at_a_new_store_the_first_names_the_epoch(
    connection: StoreConnection, tmp_path: Path
) -> None:
    first = EpochGuard(connection.call, tmp_path / "one.json")

    async def slow_call(*words: Word) -> Reply:
        if str(words[0]).startswith("HSET"):  # it has found no epoch; meanwhile, another server comes first
            await first.verify()
        return await connection.call(*words)

    second = await EpochGuard(slow_call, tmp_path / "two.json").verify()
    assert second == await first.verify()


async def test_an_emptied_store_is_not_trusted_and_left_as_it_is(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    guard = EpochGuard(connection.call, tmp_path / "epoch.json")
    before = await guard.verify()
    store.command("FLUSHALL")
    for fresh in (guard, EpochGuard(connection.call, tmp_path / "epoch.json")):
        assert await fresh.verify() == EpochState(stored=None, remembered=before.stored)
        assert not fresh.trusted
        with pytest.raises(StoreLost, match=r"carries no epoch.*holdgate store adopt") as lost:
            fresh.require_trusted()
        assert str(before.stored) in str(lost.value)
    assert store.command("DBSIZE") == 0


async def test_a_store_that_kept_its_file_is_trusted_again_after_a_crash(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    await connection.call("CONFIG", "SET", "appendfsync", "always")
    guard = EpochGuard(connection.call, tmp_path / "epoch.json")
    before = await guard.verify()
    store.kill()
    await until(lambda: not connection.connected, what="the loss to be noticed")
    with pytest.raises(StoreError):
        await guard.verify()
    assert guard.trusted
    store.start()
    await until(lambda: connection.connected, what="the connection")
    assert await guard.verify() == before


async def test_an_exchanged_store_is_not_trusted_and_both_epochs_are_named(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    guard = EpochGuard(connection.call, tmp_path / "epoch.json")
    before = await guard.verify()
    store.command("HSET", "hg:epoch", "id", "fedcba9876543210")
    assert not (await guard.verify()).trusted
    with pytest.raises(StoreLost, match=f"{before.stored}.*fedcba9876543210.*holdgate store adopt"):
        guard.require_trusted()


@pytest.mark.parametrize("exchanged", [True, False], ids=["exchanged", "emptied"])
async def test_adopting_once_is_enough_for_every_server_that_knew_the_lost_store(
    store: RunningStore,
    connection: StoreConnection,
    tmp_path: Path,
    exchanged: bool,  # noqa: FBT001  # a column
) -> None:
    guards = [EpochGuard(connection.call, tmp_path / f"{name}.json") for name in ("one", "two")]
    lost = (await guards[0].verify()).stored
    await guards[1].verify()
    store.command("FLUSHALL")
    if exchanged:
        store.command("HSET", "hg:epoch", "id", "fedcba9876543210")
    adopted = await guards[0].adopt()
    assert adopted.trusted
    assert adopted.stored != lost
    assert await guards[1].verify() == adopted
    for guard in guards:
        guard.require_trusted()


async def test_adopting_a_good_store_changes_nothing(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    guard = EpochGuard(connection.call, tmp_path / "epoch.json")
    before = await guard.verify()
    assert await guard.adopt() == before
    assert store.command("HLEN", "hg:epoch") == 1


async def test_an_old_store_that_returns_is_told_from_the_one_adopted_in_its_place(
    store: RunningStore, connection: StoreConnection, tmp_path: Path
) -> None:
    """Adopting goes one way: going back to the old data is a second decision."""
    guard = EpochGuard(connection.call, tmp_path / "epoch.json")
    old = (await guard.verify()).stored
    store.command("FLUSHALL")
    await guard.adopt()
    store.command("FLUSHALL")
    store.command("HSET", "hg:epoch", "id", str(old))
    assert not (await guard.verify()).trusted


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"epo'])
async def test_an_unreadable_memory_is_no_licence_to_start_anew(
    connection: StoreConnection, tmp_path: Path, text: str
) -> None:
    memory = tmp_path / "epoch.json"
    memory.write_text(text)
    with pytest.raises(StoreLost, match=r"epoch\.json"):
        await EpochGuard(connection.call, memory).verify()
    assert memory.read_text() == text


async def test_the_memory_is_written_whole_and_leaves_nothing_beside_it(
    connection: StoreConnection, tmp_path: Path
) -> None:
    state = await EpochGuard(connection.call, tmp_path / "epoch.json").verify()
    assert names(tmp_path) == ["epoch.json"]
    assert json.loads((tmp_path / "epoch.json").read_text()) == {"epoch": state.stored}


def test_each_store_has_a_memory_of_its_own(tmp_path: Path) -> None:
    paths = {memory_path(tmp_path, address) for address in ("redis://a:1/0", "redis://a:1/1", "redis://b:1/0")}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {tmp_path}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
