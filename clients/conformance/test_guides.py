"""The gateways of the guides, each in front of some work, with the policy that the guides use."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from holdgate import AsyncQuota
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from clients.conformance.programs import CLIENTS, with_clients
from tests.proxies.quick_starts import GUIDES, follow
from tests.proxies.upstreams import upstream
from tests.rpc.processes import server_process
from tests.waiting import wait_until

WORKED = {"rpm": 1, "tpm": 20, "streams": 0}
GIVEN_BACK = {"rpm": 1, "tpm": 0, "streams": 0}


@pytest.fixture
def holdgate(tmp_path: Path) -> Iterator[str]:
    flags = ("--policies", str(GUIDES / "llm.yaml"), "--store", "memory", "--drain-seconds", "0")
    with server_process(tmp_path, *flags) as server:
        yield server.address


@contextmanager
def program(*words: str) -> Iterator[str]:
    """A gateway, by the line in which it says where it serves."""
    with subprocess.Popen(words, env=with_clients(), stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own words
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("gateway on "), f"it said {line!r}"
            yield line.removeprefix("gateway on ").strip()
        finally:
            process.kill()


@pytest.fixture(params=["go", "express", "spring"])
def gateway(request: pytest.FixtureRequest, holdgate: str) -> Iterator[str]:
    if request.param == "express":
        with program("node", str(CLIENTS / "typescript/dist/src/express.js"), "127.0.0.1:0", holdgate) as address:
            yield address
        return
    if request.param == "spring":
        flags = (
            "--server.port=0",
            f"--holdgate.address={holdgate}",
            "--spring.main.banner-mode=off",
            "--logging.level.root=off",
        )
        with program("java", "-jar", str(CLIENTS / "spring/target/spring-gateway.jar"), *flags) as address:
            yield address
        return
    with (
        upstream() as (behind, _),
        program(str(CLIENTS / "go/bin/proxy"), "127.0.0.1:0", holdgate, f"http://{behind}") as address,
    ):
        yield address


def asked(address: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(address, timeout=20)
    connection.request("GET", path, headers={"X-Org": "acme"})
    with connection.getresponse() as response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        found = response.status, headers, response.read()
    connection.close()
    return found


def used(holdgate: str) -> dict[str, int]:
    with grpc.insecure_channel(holdgate) as channel:
        stub: Any = QuotaServiceStub(channel)  # type: ignore[arg-type]  # the stubs' types know asyncio alone
        answer = stub.GetUsage(quota.GetUsageRequest(tenant="acme"))
    return {limit.id: limit.used for limit in answer.limits}


def test_what_the_work_used_is_charged(gateway: str, holdgate: str) -> None:
    status, _, body = asked(gateway, "/?used=20")
    assert (status, body) == (200, b"the work")
    wait_until(lambda: used(holdgate) == WORKED)


def test_a_refusal_is_told_in_the_policys_own_form(gateway: str, holdgate: str) -> None:
    for count in range(1, 6):
        assert asked(gateway, "/?used=1")[0] == 200
        wait_until(lambda count=count: used(holdgate) == {"rpm": count, "tpm": count, "streams": 0})  # type: ignore[misc]  # mypy cannot infer it
    status, headers, body = asked(gateway, "/?used=1")
    assert status == 429
    assert int(headers["retry-after"]) > 50
    assert b"Requests per minute: 5 reached." in body


def test_a_client_that_goes_away_gives_everything_back(holdgate: str) -> None:
    with (
        upstream() as (behind, _),
        program(str(CLIENTS / "go/bin/proxy"), "127.0.0.1:0", holdgate, f"http://{behind}") as address,
    ):
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\nx-org: acme\r\n\r\n")
            wait_until(lambda: used(holdgate)["streams"] == 1)
        wait_until(lambda: used(holdgate) == GIVEN_BACK)


@pytest.mark.parametrize("guide", ["go.md", "express.md", "spring.md"])
def test_a_gateways_guide_works_as_written(guide: str, holdgate: str, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    follow(guide, tmp_path / "clone", holdgate)


def test_the_python_clients_first_program_works_as_written(holdgate: str) -> None:
    program = re.findall(r"```python\n(.*?)```", (CLIENTS / "python" / "README.md").read_text(), re.DOTALL)[0]
    assert "127.0.0.1:50051" in program
    words = [sys.executable, "-c", program.replace("127.0.0.1:50051", holdgate)]
    done = subprocess.run(words, env=with_clients(), capture_output=True, text=True, timeout=60, check=True)  # noqa: S603  # our own words
    assert done.stdout.startswith("working under hold ")
    assert used(holdgate) == {"rpm": 1, "tpm": 120, "streams": 0}


async def test_the_hooks_of_an_llm_gateway(holdgate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called by the names that LiteLLM's proxy uses; its class asks for the methods on the class itself."""
    monkeypatch.syspath_prepend(str(GUIDES))
    import llm_hook  # noqa: PLC0415  # only now on the path

    key: Any = SimpleNamespace(team_id="acme", user_id="kim")
    called: Any = {"user_api_key_dict": key, "cache": None, "call_type": "completion"}
    answer = SimpleNamespace(usage=SimpleNamespace(total_tokens=20))
    async with AsyncQuota(holdgate, policy="llm", within_s=10, attempt_s=5) as client:
        hooks = llm_hook.QuotaHooks(client)
        assert "async_pre_call_hook" in vars(type(hooks))
        data = await hooks.async_pre_call_hook(data={"model": "small", "max_tokens": 900}, **called)
        assert (await asyncio.to_thread(used, holdgate))["tpm"] == 900
        assert await hooks.async_post_call_success_hook(data=data, user_api_key_dict=key, response=answer) is answer
        assert await asyncio.to_thread(used, holdgate) == WORKED

        data = await hooks.async_pre_call_hook(data={"model": "small"}, **called)
        failure: Any = {"request_data": data, "user_api_key_dict": key, "traceback_str": None}
        await hooks.async_post_call_failure_hook(original_exception=RuntimeError("the model failed"), **failure)
        assert await asyncio.to_thread(used, holdgate) == {**WORKED, "rpm": 2}

        with pytest.raises(llm_hook.NotNow, match="Tokens per minute: 2000 reached") as refused:
            await hooks.async_pre_call_hook(data={"model": "small", "max_tokens": 1990}, **called)
        assert refused.value.status_code == 429
        await hooks.async_post_call_failure_hook(original_exception=refused.value, **{**failure, "request_data": {}})


async def test_a_stream_behind_an_llm_gateway_is_charged_at_its_end(
    holdgate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(GUIDES))
    import llm_hook  # noqa: PLC0415  # only now on the path

    async def chunks() -> AsyncIterator[object]:
        yield SimpleNamespace(text="the work")
        yield SimpleNamespace(usage=SimpleNamespace(total_tokens=20))

    key: Any = SimpleNamespace(team_id=None, user_id="acme")
    called: Any = {"user_api_key_dict": key, "cache": None, "call_type": "completion"}
    async with AsyncQuota(holdgate, policy="llm", within_s=10, attempt_s=5) as client:
        hooks = llm_hook.QuotaHooks(client)
        data = await hooks.async_pre_call_hook(data={"model": "small", "stream": True}, **called)
        streamed: Any = {"user_api_key_dict": key, "request_data": data}
        found = [chunk async for chunk in hooks.async_post_call_streaming_iterator_hook(response=chunks(), **streamed)]
        assert len(found) == 2
        assert await asyncio.to_thread(used, holdgate) == WORKED

        streamed["request_data"] = await hooks.async_pre_call_hook(data={"model": "small", "stream": True}, **called)
        broken = hooks.async_post_call_streaming_iterator_hook(response=chunks(), **streamed)
        await anext(broken)
        await broken.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert await asyncio.to_thread(used, holdgate) == {**WORKED, "rpm": 2}
