"""What the fast transport does beyond the reference."""

import asyncio
import gc
import gzip
import os
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from server.rpc.transports.asgi import metadata
from server.rpc.transports.asgi.app import GrpcApp
from server.rpc.transports.asgi.call import Call, Method
from server.rpc.transports.asgi.framing import Event, Requests
from server.rpc.transports.asgi.reply import Reply
from server.rpc.transports.asgi.status import CallFailed
from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.transport.conftest import Served, serving
from tests.rpc.transport.probe import SERVICE
from tests.rpc.transport.raw import RawClient, frame, text
from tests.waiting import until

LONG = text("x" * 5000)
GZIPPED = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,gzip")]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving("asgi") as served:
        yield served


@pytest.mark.usefixtures("served")
async def test_the_threads_of_h2corn_wait_for_the_event_loop() -> None:
    classes = {os.sched_getscheduler(thread) for thread, name in names_of_threads().items() if name.startswith("tokio")}

    assert classes == {os.SCHED_BATCH}
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER


def names_of_threads() -> dict[int, str]:
    return {int(task.name): (task / "comm").read_text() for task in Path("/proc/self/task").iterdir()}


async def test_a_long_answer_to_a_caller_who_compresses_is_compressed(raw: RawClient) -> None:
    answer = await raw.call(f"{SERVICE}/Echo", frame(LONG), GZIPPED)
    assert answer.headers["grpc-encoding"] == "gzip"
    assert (answer.body[0], zlib.decompress(answer.body[5:], wbits=31)) == (1, LONG)


async def test_a_short_answer_is_never_compressed(raw: RawClient) -> None:
    answer = await raw.call(f"{SERVICE}/Echo", frame(text("x")), GZIPPED)
    assert answer.body == frame(text("x"))


@pytest.mark.parametrize("headers", [[], GZIPPED[:1], GZIPPED[1:]])
async def test_only_a_caller_who_compresses_and_says_so_gets_gzip(
    raw: RawClient, headers: list[tuple[str, str]]
) -> None:
    answer = await raw.call(f"{SERVICE}/Echo", frame(LONG), headers)
    assert answer.body == frame(LONG)
    assert "grpc-encoding" not in answer.headers


async def test_an_exception_is_logged_and_not_told(raw: RawClient) -> None:
    with capture_logs() as logged:
        answer = await raw.call(f"{SERVICE}/Crash", frame(text("x")))
    assert answer.grpc_status == StatusCode.UNKNOWN.value[0]
    assert "of the inside" not in answer.grpc_message
    assert [(entry["event"], entry["rpc"], entry["exc_info"]) for entry in logged] == [
        ("rpc.failed", f"/{SERVICE}/Crash", True)
    ]


async def test_a_servicer_that_ends_as_cancelled_by_itself_leaves_no_caller_waiting(raw: RawClient) -> None:
    answer = await raw.call(f"{SERVICE}/GiveUp", frame(text("x")))
    assert answer.grpc_status == StatusCode.UNAVAILABLE.value[0]


async def test_a_request_that_cannot_be_read_is_no_failure_of_the_server(raw: RawClient) -> None:
    with capture_logs() as logged:
        answer = await raw.call(f"{SERVICE}/Echo", frame(b"\xff\xff\xff"))
    assert answer.grpc_status == StatusCode.INVALID_ARGUMENT.value[0]
    assert logged == []


async def test_a_gzip_bomb_is_not_blown_up() -> None:
    bomb = frame(gzip.compress(bytes(64 * 1024 * 1024)), flag=1)

    async def receive() -> Event:
        return {"type": "http.request", "body": bomb}

    requests = Requests(receive, b"gzip")
    tracemalloc.start()
    with pytest.raises(CallFailed):
        await requests.only()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 * MAX_REQUEST_BYTES


async def test_nothing_is_kept_of_a_call_until_its_deadline(raw: RawClient) -> None:
    for _ in range(20):
        await raw.call(f"{SERVICE}/Echo", frame(text("x")), [("grpc-timeout", "1H")])
    await until(lambda: not any(type(thing) is Call for thing in gc.get_objects()))


async def test_values_that_a_proxy_joined_are_taken_apart() -> None:
    assert metadata.decoded([(b"x-bin", b"AAA, AAE=")]) == (("x-bin", b"\x00\x00"), ("x-bin", b"\x00\x01"))


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    await GrpcApp()({"type": "websocket"}, _nothing, send)
    assert sent == [{"type": "websocket.close"}]


async def test_a_servicer_learns_who_the_caller_is_by_its_certificate() -> None:
    tls = {"client_cert_chain": ("leaf\n", "issuer\n"), "client_cert_name": "CN=gateway"}
    scope = {"headers": [], "extensions": {"tls": tls}, "client": ("::1", 7)}
    task = asyncio.current_task()
    assert task is not None
    method = Method(lambda _request, _call: None, bytes, bytes, takes_stream=False, gives_stream=False)
    call = Call(task, method, scope, _nothing, Reply(_ignore))
    assert call.peer() == "ipv6:[::1]:7"
    assert call.auth_context() == {
        "transport_security_type": [b"ssl"],
        "x509_subject": [b"CN=gateway"],
        "x509_pem_cert": [b"leaf\n"],
        "x509_pem_cert_chain": [b"leaf\nissuer\n"],
    }


async def _nothing() -> Event:
    raise AssertionError("nothing is to be read")


async def _ignore(_event: Event) -> None:
    pass
