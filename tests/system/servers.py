"""Server processes of these tests, and the stores behind them as they are past every server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from grpc import aio

from tests.rpc.processes import ServerProcess, server_process
from tests.stores import VALKEY, RunningStore

POLICY: Final = Path(__file__).with_name("policy.yaml")

PATIENT_MS: Final = "10000"
"""A busy machine is no reason for a test to fail; those about slow stores set their own bound."""

# Channels of one process to one address share one connection unless they are told not to.
OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)


@asynccontextmanager
async def serving(folder: Path, *flags: str) -> AsyncIterator[ServerProcess]:
    """A server with data and log in `folder`, killed at the end without a goodbye. The last of equal flags counts.

    Started beside the event loop, on which a proxy to its store may be running.
    """
    words = ("--policies", str(POLICY), "--store-timeout-ms", PATIENT_MS, *flags)
    with ExitStack() as stack:
        yield await asyncio.to_thread(lambda: stack.enter_context(server_process(folder, *words)))


@asynccontextmanager
async def channels_to(*addresses: str, each: int = 1) -> AsyncIterator[list[aio.Channel]]:
    """Connections of their own, `each` to every address, in turns."""
    channels = [aio.insecure_channel(address, options=OWN_CONNECTION) for _ in range(each) for address in addresses]
    try:
        yield channels
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


def kill(server: ServerProcess) -> None:
    """SIGKILL, and wait until it is gone."""
    server.process.kill()
    server.exit_status()


class Owner(NamedTuple):
    """Who has an embedded store's folder, by its lock file."""

    server_pid: int
    store_pid: int
    url: str


def owner_of(folder: Path) -> Owner:
    """The processes of the server that runs in `folder`."""
    return Owner(**json.loads((folder / "data" / "store.lock").read_bytes()))


def embedded_store(folder: Path) -> RunningStore:
    """The store of the server that runs in `folder`, for commands past the server."""
    return RunningStore(VALKEY, folder / "data")


def workers_of(server: ServerProcess) -> list[int]:
    """The processes that answer calls where a server has several; one that has just died may still be among them."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in command_of(child)]


def command_of(pid: str) -> bytes:
    """A process's command line; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
