"""The guide's configuration of nginx, run as it is written but for its ports, and the endpoint that it asks."""

import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proxies.upstreams import Upstream, upstream
from tests.rpc.processes import ServerProcess, server_process
from tests.stores import ROOT, free_port
from tests.waiting import wait_until

GUIDE = ROOT / "docs" / "gateways"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
ANSWER_S = 20


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Place(NamedTuple):
    gateway: str
    server: ServerProcess
    upstream: Upstream


def fetched(address: str, path: str = "/", **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}{path}", headers=names)  # loopback
    try:
        found = urllib.request.urlopen(request, timeout=ANSWER_S)  # noqa: S310  # loopback
    except urllib.error.HTTPError as error:
        found = error
    with found:
        lowered = {name.lower(): value for name, value in found.headers.items()}
        return Answer(found.status, lowered, found.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    flags = ("--policies", str(GUIDE / "llm.yaml"), "--store", "memory", "--drain-seconds", "0")
    with server_process(tmp_path, *flags) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, server: ServerProcess) -> Iterator[Place]:
    if NGINX is None:
        pytest.skip("no nginx; on Debian: apt-get install nginx-light")
    port = free_port()
    with upstream() as (behind, state):
        text = (GUIDE / "nginx.conf").read_text()
        for written, taken in {"8080": str(port), "8081": behind[10:], "127.0.0.1:50051": server.address}.items():
            assert written in text
            text = text.replace(written, taken)
        config = tmp_path / "nginx.conf"
        config.write_text(text)
        files = f"pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; daemon off;"
        words = [NGINX, "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(config), "-g", files]
        with subprocess.Popen(words) as process:  # noqa: S603  # our own words
            try:
                wait_until((tmp_path / "nginx.pid").exists)
                yield Place(f"127.0.0.1:{port}", server, state)
            finally:
                process.terminate()


def test_a_granted_request_reaches_the_upstream(place: Place) -> None:
    answer = fetched(place.gateway, x_org="acme")
    assert (answer.status, answer.body) == (200, b"the work")
    assert answer.headers["ratelimit-policy"].startswith('"streams";q=2')
    assert place.upstream.calls[0]["x-quota-hold"]


def test_a_refusal_has_its_own_status_and_headers(place: Place) -> None:
    answers = [fetched(place.gateway, x_org="acme") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].body == b'{"error": {"code": "too_many_streams"}}'
    assert answers[2].headers["retry-after"] == "10"
    assert answers[2].headers["ratelimit"] == '"streams";r=0'
    assert len(place.upstream.calls) == 2


def test_without_a_decision_nothing_goes_ahead(place: Place) -> None:
    assert fetched(place.gateway).status == 503  # a request of nobody
    place.server.send(signal.SIGKILL)
    place.server.exit_status()
    answer = fetched(place.gateway, x_org="acme")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert place.upstream.calls == []


def test_the_question_is_in_headers_and_so_is_the_answer(server: ServerProcess) -> None:
    ask = {"x_quota_policy": "llm", "x_quota_tenant": "acme", "x_quota_action": "chat", "x_quota_request_id": "r-1"}
    answer = fetched(
        server.address, "/authorize", **ask, x_quota_amounts="tokens=1500, requests=1", x_quota_scope="model=m"
    )
    assert (answer.status, answer.headers["x-quota-hold"], answer.body) == (204, "r-1", b"")
    ask["x_quota_request_id"] = "r-2"
    answer = fetched(server.address, "/authorize", **ask, x_quota_amounts="tokens=1500")
    assert answer.status == 403
    assert (answer.headers["x-quota-status"], answer.headers["x-quota-code"]) == ("429", "rate_limited")
    assert answer.headers["ratelimit"].startswith('"tpm";r=500;t=')
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "tenant"),
        ({"x_quota_tenant": "acme"}, "action"),
        ({"x_quota_tenant": "acme", "x_quota_action": "chat", "x_quota_amounts": "tokens"}, "expected NAME=VALUE"),
        ({"x_quota_tenant": "acme", "x_quota_action": "chat", "x_quota_amounts": "tokens=-1"}, "whole number"),
        ({"x_quota_tenant": "acme", "x_quota_action": "chat", "x_quota_amounts": "gold=1"}, "no meter 'gold'"),
    ],
)
def test_a_question_that_cannot_be_is_a_bad_request(server: ServerProcess, headers: dict[str, str], said: str) -> None:
    answer = fetched(server.address, "/authorize", **headers)
    assert answer.status == 400
    assert said in answer.body.decode()
