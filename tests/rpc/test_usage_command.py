"""`holdgate usage`: a tenant's limits as bars and the cycles of its quotas, as a server tells them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, decision_pb2, quota_service_pb2, quota_service_pb2_grpc

from server import cli
from server.bootstrap import App, running
from server.usage_command import Blocks, shown
from tests.rpc.conftest import MakeSettings, set_time
from tests.scenario.quantities import epoch_ms
from tests.stores import ROOT, free_port

ASCII = Blocks("#", "+", ".", "|")


@pytest.fixture
async def kynasmith(make_settings: MakeSettings) -> AsyncIterator[App]:
    """A server with a tenant whose frames went past its quota in one cycle and are under it in the next."""
    async with running(make_settings(policies=(ROOT / "policies" / "kynasmith.yaml",))) as app:
        async with aio.insecure_channel(app.address) as channel:
            stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
            account = admin.Account(plan="over", flags={"billing_configured": True})
            account.created_at_ms = epoch_ms("2026-01-31T10:00:00Z")
            await set_time(channel, epoch_ms("2026-03-10T12:00:00Z"))
            put = admin.PutAccountRequest(tenant="o1", account=account)
            await admin_service_pb2_grpc.AdminServiceStub(channel).PutAccount(put)
            await submit(stub, "h1", 1020)
            await stub.Settle(quota_service_pb2.SettleRequest(tenant="o1", hold_id="h1"))
            await set_time(channel, epoch_ms("2026-03-31T12:00:00Z"))
            await submit(stub, "h2", 250)
            await stub.Settle(quota_service_pb2.SettleRequest(tenant="o1", hold_id="h2"))
            await submit(stub, "h3", 100)
        yield app


async def submit(stub: quota_service_pb2_grpc.QuotaServiceStub, hold_id: str, frames: int) -> None:
    answer = await stub.CheckAndReserve(
        quota_service_pb2.CheckAndReserveRequest(
            tenant="o1", request_id=hold_id, action="frames.submit", scope={"project": "p1"}, amounts={"frames": frames}
        )
    )
    assert answer.decision.outcome == decision_pb2.OUTCOME_GRANTED


async def test_a_tenants_usage_is_drawn(kynasmith: App, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["usage", "o1", "--address", kynasmith.address, "--scope", "project=p1"]
    assert await asyncio.to_thread(cli.main, words) == 0
    out = capsys.readouterr().out
    assert "accepted_frames, resets in 29 d 12 h" in out
    assert "  ███████▒▒▒····················  350 of 1,000 frames used, 100 of them held; 650 left" in out
    assert "  cycle 2026-03-31 to 2026-04-30\n" in out
    assert "  2026-02-28 ██████████████████████████████  1,020 of 1,000 frames; 20 billed, $0.004" in out
    assert "project_frames (project p1), resets in" in out
    assert "  350 frames used, 100 of them held; no limit" in out
    assert "  ······························  0 of 500 requests used; 500 left" in out


def projected_at(used: int, projected: int, **found: int) -> list[str]:
    projection = quota_service_pb2.Projection(used=projected, **found)  # type: ignore[arg-type]  # numbers for enums
    cycle = quota_service_pb2.CycleUsage(ends_at_ms=epoch_ms("2026-05-01T00:00:00Z"), accepted=used)
    quota = quota_service_pb2.QuotaUsage(limit_id="q", meter="frames", current=cycle, projection=projection)
    status = decision_pb2.LimitStatus(id="q", limit=1000, used=used)
    return list(shown("o1", quota_service_pb2.GetUsageResponse(limits=[status], quotas=[quota]), ASCII))


def test_the_bar_marks_where_the_cycle_is_heading() -> None:
    lines = projected_at(300, 600, method=1, confidence=2)
    assert lines[3].startswith("  " + "#" * 9 + "." * 9 + "|" + "." * 11 + "  ")
    assert lines[-1] == "  projected 600 frames by 2026-05-01 at this rate, medium confidence"


def test_use_that_is_heading_beyond_the_allowance_says_when_it_is_used_up() -> None:
    lines = projected_at(400, 1200, method=1, confidence=3, exhausted_at_ms=epoch_ms("2026-04-26T00:00:00Z"))
    assert "|" not in lines[3]
    assert lines[-1] == (
        "  projected 1,200 frames by 2026-05-01 at this rate, high confidence; used up 2026-04-26 00:00 UTC"
    )


def test_the_banner_stands_above_the_limits() -> None:
    banner = quota_service_pb2.Banner(percent=80, level="yellow", text="Nearly used up.", limit_id="compute")
    answer = quota_service_pb2.GetUsageResponse(policy_version="v1", banner=banner)
    assert list(shown("o1", answer, ASCII)) == ["o1, by policy v1", "yellow: Nearly used up. (compute)"]


def test_use_that_is_not_shown_is_said_to_be_counted() -> None:
    lines = list(shown("o1", quota_service_pb2.GetUsageResponse(policy_version="v1", unavailable=True), ASCII))
    assert lines == ["o1, by policy v1", "its use is counted, and not shown: the policy says so (usage.visible)"]


async def test_an_unknown_tenant_is_a_failure(kynasmith: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(cli.main, ["usage", "nobody", "--address", kynasmith.address]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["usage", "o1", "--address", f"127.0.0.1:{free_port()}"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("used", "held", "bar"),
    [
        (0, 0, "." * 30),
        (1, 0, "#" + "." * 29),
        (0, 1, "+" + "." * 29),
        (999, 0, "#" * 29 + "."),
        (1000, 0, "#" * 30),
        (5000, 1, "#" * 30),
        (500, 500, "#" * 15 + "+" * 15),
    ],
)
def test_what_is_used_shows_and_only_a_full_bar_is_full(used: int, held: int, bar: str) -> None:
    status = decision_pb2.LimitStatus(id="q", limit=1000, used=used + held, held=held, remaining=0)
    answer = quota_service_pb2.GetUsageResponse(limits=[status])
    assert list(shown("o1", answer, ASCII))[3].startswith(f"  {bar}  ")


@pytest.mark.parametrize(
    ("cycle", "told"),
    [
        ({"state": 3, "grace": 5, "grace_ends_at_ms": 0}, "; 5 in grace; exhausted, served until 1970-01-01 00:00 UTC"),
        ({"state": 4, "over_hard": 7}, "; 7 beyond the hard stop; exhausted"),
        ({"state": 2, "overage": 1, "overage_usd_micros": 1_234_500_000}, "; 1 billed, $1,234.50"),
    ],
)
def test_what_was_used_above_the_allowance_is_told(cycle: dict[str, int], told: str) -> None:
    current = quota_service_pb2.CycleUsage(**cycle)  # type: ignore[arg-type]  # numbers for an enum's value, too
    answer = quota_service_pb2.GetUsageResponse(
        limits=[decision_pb2.LimitStatus(id="q", used=1)],
        quotas=[quota_service_pb2.QuotaUsage(limit_id="q", current=current)],
    )
    assert list(shown("o1", answer, ASCII))[-1] == f"  cycle 1970-01-01 to 1970-01-01{told}"
