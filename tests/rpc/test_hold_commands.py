"""`holdgate holds` and `holdgate release`: what somebody keeps, and its end on an operator's word."""

import asyncio

import pytest
from quota.v1.quota_service_pb2 import CheckAndReserveRequest, GetUsageRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server import cli
from server.bootstrap import App
from tests.stores import free_port


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the command said; the server of these tests has its log there, too."""
    return [line for line in capsys.readouterr().out.splitlines() if "[info" not in line]


async def ran(*words: str) -> int:
    return await asyncio.to_thread(cli.main, words)


async def test_a_hold_whose_owner_is_gone_is_found_and_released(
    app: App, quota: QuotaServiceStub, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = CheckAndReserveRequest(
        tenant=tenant, request_id="r-1", action="work", scope={"project": "p1"}, amounts={"credits": 40}
    )
    await quota.CheckAndReserve(ask)
    assert await ran("holds", tenant, "--address", app.address) == 0
    (line,) = printed(capsys)
    assert line.startswith("r-1  work  until 2026-09-21 ")
    assert " project=p1 " in line
    assert " credits:40" in line
    assert await ran("release", tenant, "r-1", "--address", app.address) == 0
    assert await ran("release", tenant, "r-1", "--address", app.address) == 0
    assert await ran("holds", tenant, "--address", app.address) == 0
    assert printed(capsys) == ["acme: r-1 is released", "acme: r-1 was released before"]
    usage = await quota.GetUsage(GetUsageRequest(tenant=tenant))
    assert {limit.id: limit.held for limit in usage.limits}["credits"] == 0


async def test_a_hold_that_is_nowhere_is_told(app: App, tenant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran("release", tenant, "nobody's", "--address", app.address) == 1
    assert "NOT_FOUND: tenant 'acme' has no hold" in capsys.readouterr().err


async def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    for words in (("holds", "a1"), ("release", "a1", "r-1")):
        assert await ran(*words, "--address", address) == 1
        assert f"holdgate: {address}: UNAVAILABLE" in capsys.readouterr().err
