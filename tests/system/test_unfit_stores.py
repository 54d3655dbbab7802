"""Stores that cannot be used as they are: the server starts, says what to do, and serves once it is done."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer
from typing import Final, NamedTuple

import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse

from tests.rpc.faults import fault_of
from tests.rpc.healths import health_turns
from tests.stores import REDIS, VALKEY, RunningStore, free_port, running_store
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until

SERVING: Final = HealthCheckResponse.SERVING
NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
HELLO_OF_6_2: Final = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n"


class Unfit(NamedTuple):
    """A store that cannot be used: its URL, what the server must say of it, and how an operator mends it."""

    url: str
    said: str
    mend: Callable[[], object]


@contextmanager
def evicting() -> Iterator[Unfit]:
    with running_store("--maxmemory-policy", "allkeys-lru") as store:
        yield Unfit(
            store.url,
            "deletes keys when memory is short (maxmemory-policy allkeys-lru), which loses budgets: type CONFIG SET"
            " maxmemory-policy noeviction",
            lambda: store.command("CONFIG", "SET", "maxmemory-policy", "noeviction"),
        )


@contextmanager
def wrong_password() -> Iterator[Unfit]:
    with running_store(tcp=True) as store:
        store.command("ACL", "SETUSER", "gate", "on", ">right", "~*", "+@all")
        yield Unfit(
            f"redis://gate:guessed@127.0.0.1:{store.port}",
            "the store refused the user or password of the URL",
            lambda: store.command("ACL", "SETUSER", "gate", ">guessed"),
        )


@contextmanager
def missing_right() -> Iterator[Unfit]:
    """Scripts may not write."""
    with running_store(tcp=True) as store:
        store.command("ACL", "SETUSER", "gate", "on", ">right", "~hg:*", "+@read", "+evalsha", "+eval", "+ping")
        yield Unfit(
            f"redis://gate:right@127.0.0.1:{store.port}",
            "the ACL user lacks a right",
            lambda: store.command("ACL", "SETUSER", "gate", "+@write", "+time"),
        )


@contextmanager
def replica() -> Iterator[Unfit]:
    with running_store("--replicaof", "127.0.0.1", str(free_port())) as store:
        yield Unfit(
            store.url,
            "is a read-only replica; put the address of its primary",
            lambda: store.command("REPLICAOF", "NO", "ONE"),
        )


@contextmanager
def no_redis() -> Iterator[Unfit]:
    port = free_port()
    with answering(ThreadingHTTPServer(("127.0.0.1", port), Web)) as end, put_right(port) as store:
        yield Unfit(
            f"redis://127.0.0.1:{port}",
            f"no Redis server at redis://127.0.0.1:{port}/0: ",
            lambda: in_its_place(end, store),
        )


@contextmanager
def too_old() -> Iterator[Unfit]:
    port = free_port()
    with answering(OldRedis(("127.0.0.1", port), OldAnswers)) as end, put_right(port) as store:
        yield Unfit(
            f"redis://127.0.0.1:{port}",
            f"the store at redis://127.0.0.1:{port}/0 is redis 6.2.14; upgrade it to 7.0 or newer",
            lambda: in_its_place(end, store),
        )


CASES: Final[list[Callable[[], AbstractContextManager[Unfit]]]] = [
    evicting,
    wrong_password,
    missing_right,
    replica,
    no_redis,
    too_old,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_an_unfit_store_is_explained_and_serves_once_it_is_mended(
    tmp_path: Path, case: Callable[[], AbstractContextManager[Unfit]]
) -> None:
    with case() as unfit:
        async with serving(tmp_path, "--redis-url", unfit.url) as server, channels_to(server.address) as (channel,):
            assert unfit.said in server.log()
            await health_turns(channel, NOT_SERVING)
            gateway = Gateway(channel)
            fault = await fault_of(gateway.poll())
            assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert unfit.said in fault.message
            await asyncio.to_thread(unfit.mend)
            await health_turns(channel, SERVING)
            await gateway.open_account(100)
            await gateway.take("r-1")


@pytest.mark.parametrize(
    "binary",
    [VALKEY, pytest.param(REDIS, marks=pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH"))],
    ids=["valkey", "redis7"],
)
async def test_a_full_store_takes_nothing_more_and_everything_back(tmp_path: Path, binary: str) -> None:
    with running_store("--appendonly", "yes", binary=binary) as store:
        async with (
            serving(tmp_path, "--redis-url", store.url, "--sweep-interval-ms", "500") as server,
            channels_to(server.address) as (channel,),
        ):
            gateway = Gateway(channel)
            await gateway.open_account(100)
            for name in ("settled", "released"):
                await gateway.take(name)
            await gateway.take("overdue", "brief")
            store.command("CONFIG", "SET", "maxmemory", 1)
            fault = await fault_of(gateway.reserve("more"))
            assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert "maxmemory" in fault.message
            store.command("SCRIPT", "FLUSH")  # what gives back must also be loadable
            assert (await gateway.settle("settled", 3)).applied
            assert (await gateway.release("released")).applied
            await until(lambda: store.command("ZCARD", "hg:{lab/acme}:due") == 0, what="the sweeper to end the third")
            balance = await gateway.credits()
            assert (balance.held, balance.remaining) == (0, 97)
            store.command("CONFIG", "SET", "maxmemory", 0)
            await gateway.take("more")


@contextmanager
def put_right(port: int) -> Iterator[RunningStore]:
    """The store that will listen on the port once it is started."""
    with running_store(tcp=True) as store:
        store.kill()
        store.port = port
        yield store


def in_its_place(end: Callable[[], None], store: RunningStore) -> None:
    end()
    store.start()


@contextmanager
def answering(server: BaseServer) -> Iterator[Callable[[], None]]:
    """Runs a server of the standard library until the yielded function is called."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    try:
        yield end
    finally:
        end()


class Web(BaseHTTPRequestHandler):
    """What a web server answers to a Redis client, unlogged."""

    def log_request(self, *_: object) -> None: ...

    def log_error(self, *_: object) -> None: ...


class OldRedis(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class OldAnswers(StreamRequestHandler):
    """Redis 6.2, as far as a server sees before it turns away."""

    def handle(self) -> None:
        while count := self.rfile.readline()[1:]:
            words = [self.read_word() for _ in range(int(count))]
            self.wfile.write(HELLO_OF_6_2 if words[0] == b"HELLO" else b"+PONG\r\n")

    def read_word(self) -> bytes:
        size = int(self.rfile.readline()[1:])
        return self.rfile.read(size + 2)[:-2]
