"""The processes that are measured, each one ours: a store, servers, the yardstick. All end with their block."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hiredis

from server.engine.embedded import find_binary
from server.settings import ENVIRONMENT_PREFIX

ROOT: Final = Path(__file__).resolve().parents[1]
POLICY: Final = Path(__file__).with_name("standard.yaml")

_START_S: Final = 20.0
_END_S: Final = 20.0
_PAUSE_S: Final = 0.01
_COMMAND_S: Final = 120.0
_ADDRESS: Final = re.compile(r" on (\S+?)[;\n]")


class NotStarted(Exception):
    """A process that is to be measured does not start; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Store:
    """A Valkey that writes nothing to disk, on a unix socket."""

    pid: int
    socket: Path

    @property
    def url(self) -> str:
        """What a server is told of it."""
        return f"unix://{self.socket}"

    def command(self, *words: bytes | str | int) -> Any:  # noqa: ANN401  # whatever the command answers
        """Runs one command; raises hiredis.ReplyError."""
        (reply,) = self.commands([words])
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def commands(self, all_words: list[tuple[bytes | str | int, ...]]) -> list[Any]:
        """Runs commands in one go; errors are among the replies."""
        packed = b"".join(hiredis.pack_command(words) for words in all_words)  # type: ignore[arg-type]  # its stub knows one word only
        replies: list[Any] = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_COMMAND_S)
            sock.connect(str(self.socket))
            sock.sendall(packed)
            reader = hiredis.Reader(notEnoughData=Ellipsis)
            while len(replies) < len(all_words):
                reader.feed(sock.recv(1 << 20))
                while (reply := reader.gets()) is not Ellipsis:
                    replies.append(reply)
        return replies


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers at `address`. `pids` are the processes whose CPU answers calls."""

    address: str
    pids: tuple[int, ...]


@contextmanager
def store(folder: Path) -> Iterator[Store]:
    """A store of our own. It keeps no file: what it costs to persist is not part of a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "store.sock"
    words = [find_binary(), "--dir", str(folder), "--port", "0", "--unixsocket", str(place)]
    words += ["--save", "", "--appendonly", "no"]
    with running(words, folder / "store.log") as process:
        found = Store(process.pid, place)
        deadline = time.monotonic() + _START_S
        while not _answers(found):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"the store does not start: {_last_words(folder / 'store.log')}")
            time.sleep(_PAUSE_S)
        yield found


def _answers(found: Store) -> bool:
    with suppress(OSError):
        return bool(found.command("PING") == b"PONG")
    return False


@contextmanager
def holdgate(folder: Path, behind: Store, *flags: str) -> Iterator[Served]:
    """A server on loopback, on the fast transport unless the flags say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "server", "serve", "--listen", "127.0.0.1:0", "--transport", "asgi"]
    words += ["--store", "redis", "--redis-url", behind.url, "--policies", str(POLICY)]
    words += ["--data-dir", str(folder / "data"), "--store-timeout-ms", "10000", "--drain-seconds", "0", *flags]
    with _announced(words, folder / "server.log") as served:
        yield served


@contextmanager
def empty_call(folder: Path, transport: str, reply_bytes: int) -> Iterator[Served]:
    """The yardstick on one of its transports (`benchmarks.empty_call`), answering every call with so many bytes."""
    words = [sys.executable, "-m", "benchmarks.empty_call", transport, str(reply_bytes)]
    with _announced(words, folder / f"empty-{transport}.log") as served:
        yield served


@contextmanager
def _announced(words: list[str], log: Path) -> Iterator[Served]:
    with running(words, log, tells=True) as process:
        assert process.stdout is not None  # noqa: S101  # asked for just now
        line = process.stdout.readline()
        found = _ADDRESS.search(line)
        if not found:
            raise NotStarted(f"{' '.join(words[1:4])} said {line!r}: {_last_words(log)}")
        yield Served(found[1], _workers_of(process.pid) or (process.pid,))


@contextmanager
def running(words: list[str], log: Path, *, tells: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process, ended by SIGTERM with the block. `tells`: its standard output is read by us, and not logged."""
    with log.open("w") as output:
        stdout = subprocess.PIPE if tells else output
        process = subprocess.Popen(  # noqa: S603  # our own words
            words, cwd=ROOT, env=_environment(), stdout=stdout, stderr=output, text=True
        )
    try:
        yield process
    except Exception as error:
        error.add_note(f"{log.name}: {_last_words(log) or 'empty'}")  # the log is gone when somebody could look
        raise
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def until_it_listens(process: subprocess.Popen[str], port: int, log: Path) -> None:
    """Waits until the process takes connections on a port of loopback. Raises NotStarted."""
    deadline = time.monotonic() + _START_S
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotStarted(f"nothing listens on port {port}: {_last_words(log)}")
        time.sleep(_PAUSE_S)


def port_of(address: str) -> int:
    """The port of `host:port`."""
    return int(address.rpartition(":")[2])


def _workers_of(pid: int) -> tuple[int, ...]:
    """The processes that answer calls where a server has several."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return tuple(int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


def _environment() -> dict[str, str]:
    """This process's environment, without settings of a server in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}


def _last_words(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
