"""The guide's configuration of Envoy, run as it is written but for its ports, in front of a real upstream."""

import json
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from benchmarks.envoys import GUIDE, envoy, with_ports
from benchmarks.processes import port_of
from tests.proxies.upstreams import Upstream, upstream
from tests.rpc.processes import ServerProcess, server_process
from tests.stores import free_port
from tests.waiting import wait_until

ANSWER_S = 20


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Place(NamedTuple):
    """Everything that one test talks to."""

    address: str
    server: ServerProcess
    upstream: Upstream


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    """The guide's Envoy between clients and an upstream, with more patience: a busy machine is not what is tested."""
    gateway = free_port()
    words = ("--policies", str(GUIDE / "llm.yaml"), "--drain-seconds", "0", "--store", "memory")
    with upstream() as (address, state), server_process(folder, *words) as server:
        ports = {9901: free_port(), 8080: gateway, 8081: port_of(address), 50051: port_of(server.address)}
        config = with_ports((GUIDE / "envoy.yaml").read_text(), ports)
        assert "timeout: 0.020s" in config
        with envoy(folder, config.replace("timeout: 0.020s", "timeout: 5s"), gateway):
            yield Place(f"127.0.0.1:{gateway}", server, state)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with placed(tmp_path) as place:
        yield place


def ask(place: Place, path: str = "/", org: str = "acme") -> Answer:
    request = urllib.request.Request(f"http://{place.address}{path}", headers={"x-org": org} if org else {})  # loopback
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as found:  # noqa: S310  # loopback
            return Answer(found.status, lowered(found.headers), found.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, lowered(error.headers), error.read())


def lowered(headers: Any) -> dict[str, str]:  # noqa: ANN401  # a message of http.client
    return {name.lower(): value for name, value in headers.items()}


def figures(place: Place) -> dict[str, tuple[int, int]]:
    """What acme's limits have used and held."""
    with grpc.insecure_channel(place.server.address) as channel:
        stub: Any = QuotaServiceStub(channel)  # type: ignore[arg-type]  # the stubs' types know asyncio alone
        usage = stub.GetUsage(quota.GetUsageRequest(tenant="acme"))
    return {limit.id: (limit.used, limit.held) for limit in usage.limits}


def test_a_granted_request_reaches_the_upstream_with_its_hold(place: Place) -> None:
    answer = ask(place, "/?used=20")
    assert (answer.status, answer.body) == (200, b"the work")
    assert answer.headers["ratelimit-policy"] == '"streams";q=2;qu="concurrent-requests", "rpm";q=5;w=60'
    assert answer.headers["x-ratelimit-limit"].startswith("2")
    assert place.upstream.calls[0]["x-quota-hold"] == place.upstream.calls[0]["x-request-id"]


def test_the_tokens_that_were_used_are_charged_at_the_streams_end(place: Place) -> None:
    assert ask(place, "/?used=20").status == 200
    wait_until(lambda: figures(place) == {"rpm": (1, 0), "tpm": (20, 0), "streams": (0, 0)})


def test_without_a_word_about_tokens_the_hold_is_released(place: Place) -> None:
    assert ask(place).status == 200
    wait_until(lambda: figures(place) == {"rpm": (1, 0), "tpm": (0, 0), "streams": (0, 0)})


def test_over_the_limit_the_client_is_told_by_whom_and_for_how_long(place: Place) -> None:
    for _ in range(5):
        assert ask(place, "/?used=1").status == 200
        wait_until(lambda: figures(place)["streams"] == (0, 0))
    answer = ask(place)
    assert answer.status == 429
    assert json.loads(answer.body)["error"]["message"] == "Requests per minute: 5 reached."
    assert answer.headers["content-type"] == "application/json"
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["ratelimit"].startswith('"rpm";r=0;t=')
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert len(place.upstream.calls) == 5
    assert figures(place)["rpm"] == (5, 0)  # the end of the refused stream changed nothing


def test_a_client_that_goes_away_frees_its_place_and_its_tokens(place: Place) -> None:
    port = port_of(place.address)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\nx-org: acme\r\n\r\n")
        wait_until(lambda: figures(place)["streams"] == (1, 1))
        assert figures(place)["tpm"] == (500, 0)
    wait_until(lambda: figures(place) == {"rpm": (1, 0), "tpm": (0, 0), "streams": (0, 0)})


def test_places_are_taken_for_as_long_as_streams_last(place: Place) -> None:
    answers: list[int] = []
    streams = [threading.Thread(target=lambda: answers.append(ask(place, "/slow?used=1").status)) for _ in range(2)]
    for stream in streams:
        stream.start()
    wait_until(lambda: figures(place)["streams"] == (2, 2))
    third = ask(place)
    assert (third.status, json.loads(third.body)["error"]["code"]) == (429, "too_many_streams")
    place.upstream.gate.set()
    for stream in streams:
        stream.join(ANSWER_S)
    assert answers == [200, 200]
    wait_until(lambda: figures(place)["streams"] == (0, 0))


def test_a_request_of_nobody_is_turned_away(place: Place) -> None:
    assert ask(place, org="").status == 401


def test_without_holdgate_nothing_goes_ahead(place: Place) -> None:
    place.server.send(signal.SIGKILL)
    place.server.exit_status()
    assert ask(place).status == 503
    assert place.upstream.calls == []
