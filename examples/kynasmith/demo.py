"""Plays a throttled client against a gateway: 101 calls, of which the last is told to wait, waits, and passes.

Starts Holdgate with a clock that waiting moves, an HTTP API behind the middleware, and the client. With --node the API
and the client are those of node/. Exits 1 when anything is not as the policy says.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import grpc
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import test_clock_service_pb2 as test_clock

from examples.kynasmith.backoff import Answer, with_back_off
from examples.kynasmith.middleware import Limited

HERE = Path(__file__).parent
START_MS = 1_773_144_000_000
READY_WITHIN_S = 60
CALLS = 100


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def holdgate(folder: Path) -> Iterator[str]:
    """A server of our own with the Kynasmith policy; its address."""
    address = f"127.0.0.1:{free_port()}"
    flags = ["--listen", address, "--store", "memory", "--test-clock", "--drain-seconds", "0"]
    flags += ["--data-dir", str(folder), "--policies", "policies/kynasmith.yaml"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "server", "serve", *flags], stdout=log, stderr=log)  # noqa: S603  # our own server
        try:
            until_ready(address, server)
            yield address
        finally:
            server.terminate()
            server.wait()


def until_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    """Waits until the server answers its health check."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    ask = [sys.executable, "-m", "server", "health", "--address", address]
    while subprocess.run(ask, capture_output=True, check=False).returncode:  # noqa: S603  # our own command
        if server.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit("the server did not start")


def call(channel: grpc.Channel, method: str, request: Any, answer: Any) -> Any:  # noqa: ANN401  # any message
    """Calls one method of the control plane."""
    serializer, deserializer = type(request).SerializeToString, answer.FromString
    return channel.unary_unary(method, request_serializer=serializer, response_deserializer=deserializer)(request)


def prepare(channel: grpc.Channel) -> Callable[[float], None]:
    """Sets the clock and creates an organization; what is to be called in place of sleeping."""
    now_ms = START_MS

    def sleep(seconds: float) -> None:
        nonlocal now_ms
        now_ms += round(seconds * 1000)
        request = test_clock.SetTimeRequest(now_ms=now_ms)
        call(channel, "/quota.v1.TestClockService/SetTime", request, test_clock.SetTimeResponse)

    sleep(0)
    account = admin.Account(plan="std", created_at_ms=START_MS, flags={"billing_configured": True})
    request = admin.PutAccountRequest(policy="kynasmith", tenant="o1", account=account)
    call(channel, "/quota.v1.AdminService/PutAccount", request, admin.PutAccountResponse)
    return sleep


def api(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The product itself; it knows nothing of limits."""
    body = json.dumps({"ok": True}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(channel: grpc.Channel) -> Iterator[int]:
    """The API behind the middleware; its port."""
    server = make_server("127.0.0.1", 0, Limited(api, channel), handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(port: int, path: str) -> Answer:
    """One request to the API."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"X-Org": "o1", "X-Project": "p1"})
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def play(port: int, sleep: Callable[[float], None]) -> bool:
    """The client's side; whether all was as the policy says."""
    for _ in range(CALLS):
        answer = with_back_off(lambda: get(port, "/api/detections"), sleep)
    print(f"call {CALLS}: {answer.status}, RateLimit-Remaining {answer.headers['RateLimit-Remaining']}")
    throttled = get(port, "/api/detections")
    retry_after = throttled.headers["Retry-After"]
    print(f"call {CALLS + 1}: {throttled.status}, Retry-After {retry_after}: {throttled.body.decode()}")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        sleep(seconds)

    after = with_back_off(lambda: get(port, "/api/detections"), wait)
    print(f"after waiting {', '.join(f'{seconds:g}' for seconds in waits)} s: {after.status}")
    return (answer.status, throttled.status, after.status, waits) == (200, 429, 200, [60.0])


def play_in_node(address: str) -> bool:
    """The same in Node, which moves the clock itself."""
    node = shutil.which("node")
    if node is None or not (HERE / "node" / "node_modules").is_dir():
        raise SystemExit("needs Node, and once: cd examples/kynasmith/node && npm install")
    words = [node, str(HERE / "node" / "demo.mjs"), address, str(START_MS)]
    return not subprocess.run(words, env=dict(os.environ), check=False).returncode  # noqa: S603  # the file beside this one


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    with (
        tempfile.TemporaryDirectory() as folder,
        holdgate(Path(folder)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        sleep = prepare(channel)
        if "--node" in arguments:
            good = play_in_node(address)
        else:
            with serving(channel) as port:
                good = play(port, sleep)
    print("as the policy says" if good else "NOT as the policy says")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
