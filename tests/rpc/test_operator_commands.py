"""`holdgate reset`, `adjust` and `audit`: what an operator does by hand, and who did what."""

import asyncio
import re

import pytest
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.operators_pb2 import ListAuditRequest
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


async def used(quota: QuotaServiceStub, tenant: str, limit_id: str) -> int:
    usage = await quota.GetUsage(GetUsageRequest(tenant=tenant))
    return {limit.id: limit.used for limit in usage.limits}[limit_id]


async def test_a_window_is_reset_and_the_trail_tells_of_it(
    app: App, quota: QuotaServiceStub, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        ask = CheckAndReserveRequest(
            tenant=tenant, request_id=f"r-{number}", action="work", scope={"project": "p1"}, amounts={"credits": 1}
        )
        await quota.CheckAndReserve(ask)
    words = ("reset", tenant, "rpm", "--reason", "a stuck client", "--address", app.address, "--id", "x")

    assert await ran(*words) == cli.UNUSABLE
    assert "Forget what rpm of acme has counted? There is no terminal to ask at: say --yes" in capsys.readouterr().err
    assert await used(quota, tenant, "rpm") == 2
    assert [await ran(*words, "--yes") for _ in range(2)] == [0, 0]

    assert printed(capsys) == [
        "acme: rpm is reset: 2 forgotten in 1 cell",
        "acme: rpm was reset before: 2 forgotten in 1 cell",
    ]
    assert await used(quota, tenant, "rpm") == 0
    assert await ran("audit", tenant, "--address", app.address) == 0
    told = printed(capsys)
    assert re.fullmatch(r"2026-09-21 \d\d:\d\d:\d\d  -  reset  acme  rpm  2 -> 0  \(a stuck client\)", told[-1])


async def test_a_balance_is_adjusted(
    app: App, operator: AdminServiceStub, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("adjust", tenant, "credits", "--reason", "goodwill", "--address", app.address)
    assert await ran(*words, "--add=-30") == 0
    assert await ran(*words, "--set", "7") == 1
    captured = capsys.readouterr()
    assert "INVALID_ARGUMENT: set_to: is for quotas; balance 'credits' moves while" in " ".join(captured.err.split())
    assert re.search(r"acme: credits is adjusted: from \d+ to \d+", captured.out)
    listed = await operator.ListAudit(ListAuditRequest())
    assert [(entry.target, entry.reason) for entry in listed.entries][-1] == ("credits", "goodwill")


async def test_a_tenant_is_deleted(
    app: App, quota: QuotaServiceStub, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = CheckAndReserveRequest(
        tenant=tenant, request_id="r-1", action="work", scope={"project": "p1"}, amounts={"credits": 40}
    )
    await quota.CheckAndReserve(ask)
    words = ("delete", tenant, "--reason", "asked for", "--address", app.address)
    assert await ran(*words) == cli.UNUSABLE
    assert await ran(*words, "--yes") == 1
    assert "FAILED_PRECONDITION: tenant 'acme' has 1 open holds" in capsys.readouterr().err
    assert [await ran(*words, "--yes", "--force") for _ in range(2)] == [0, 0]
    assert printed(capsys) == ["acme: deleted, with 1 open holds", "acme: there is nothing to delete"]


async def test_a_call_whose_end_is_not_known_is_repeated_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    for words in (("reset", "a1", "rpm", "--yes"), ("adjust", "a1", "q", "--add", "1")):
        assert await ran(*words, "--reason", "why", "--address", address, "--id", "x-1") == 1
        said = capsys.readouterr().err
        assert f"holdgate: {address}: UNAVAILABLE" in said
        assert "repeat it with --id x-1, and it is done once" in said
    assert await ran("audit", "--address", address) == 1
