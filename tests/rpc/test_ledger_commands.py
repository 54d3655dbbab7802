"""`holdgate ledger` and `holdgate reconcile`: a statement, an export that drains it, and what does not add up."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2, quota_service_pb2_grpc

from server import cli
from server.bootstrap import App, running
from server.domain.operation import TenantRef
from server.engine.keys import tenant_keys
from server.settings import Store
from tests.rpc.conftest import MakeSettings, set_time
from tests.scenario.quantities import epoch_ms
from tests.stores import ROOT, RunningStore, free_port

KEYS = tenant_keys(TenantRef("credit-gate", "a1"))


@pytest.fixture
async def studio(make_settings: MakeSettings, valkey: RunningStore) -> AsyncIterator[App]:
    """A server over a real store, with an account that was opened and has paid for a render."""
    valkey.command("FLUSHALL")
    chosen = make_settings(policies=(ROOT / "policies" / "credit-gate.yaml",), store=Store.REDIS, redis_url=valkey.url)
    async with running(chosen) as app:
        async with aio.insecure_channel(app.address) as channel:
            await set_time(channel, epoch_ms("2026-03-10T12:00:00Z"))
            put = admin.PutAccountRequest(tenant="a1", account=admin.Account(plan="starter"))
            await admin_service_pb2_grpc.AdminServiceStub(channel).PutAccount(put)
            stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
            ask = quota_service_pb2.CheckAndReserveRequest(
                tenant="a1", request_id="r1", action="generate_clip", amounts={"credits": 10}
            )
            await stub.CheckAndReserve(ask)
            await stub.Settle(quota_service_pb2.SettleRequest(tenant="a1", hold_id="r1"))
        yield app
    valkey.command("FLUSHALL")


async def ran(*words: str) -> int:
    return await asyncio.to_thread(cli.main, words)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the command said; the server of these tests has its log there, too."""
    return [line for line in capsys.readouterr().out.splitlines() if "operator.acted" not in line]


async def test_a_ledger_is_printed_as_a_statement(studio: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran("ledger", "a1", "--address", studio.address) == 0
    _, opening, render = printed(capsys)
    assert opening.split() == ["1", "2026-03-10", "12:00:00", "opening", "+200", "200", "credits"]
    assert render.split() == ["2", "2026-03-10", "12:00:00", "settle", "-10", "190", "r1", "credits"]


async def test_an_export_keeps_what_it_drops(studio: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a1.jsonl"
    words = ("ledger", "a1", "--address", studio.address, "--export", str(file))
    assert [await ran(*words), await ran(*words)] == [0, 0]

    assert printed(capsys) == [f"a1: 2 entries to {file}", f"a1: 0 entries to {file}"]
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(entry["sequence"], entry["units"]) for entry in entries] == [("1", "200"), ("2", "-10")]
    assert await ran("reconcile", "a1", "--address", studio.address) == 0
    assert printed(capsys) == ["a1: all adds up, over 0 ledger entries"]


async def test_what_does_not_add_up_is_reported_and_repaired_only_when_told_to(
    studio: App, valkey: RunningStore, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = valkey.command("HGETALL", KEYS.cells)
    field = next(name for name in cells[::2] if name.startswith(b"credits~"))
    cell = cells[cells.index(field) + 1]
    spoilt = (int.from_bytes(cell[:7], "big") + 1000).to_bytes(7, "big") + cell[7:]
    valkey.command("HSET", KEYS.cells, field, spoilt)

    assert await ran("reconcile", "a1", "--address", studio.address) == 1
    assert printed(capsys) == [
        "credits: granted is 1,200, expected 200",
        "a1: nothing was changed; --repair takes what is expected",
    ]
    assert valkey.command("HGET", KEYS.cells, field) == spoilt
    words = ("--repair", "--reason", "a spoilt cell")
    assert await ran("reconcile", "a1", "--address", studio.address, *words) == 0
    assert printed(capsys)[1:] == ["a1: repaired"]
    assert await ran("audit", "a1", "--address", studio.address) == 0
    (line,) = [line for line in printed(capsys) if "repair" in line]
    assert line.endswith("repair  a1  credits  credits.granted=1200 -> credits.granted=200  (a spoilt cell)")
    assert valkey.command("HGET", KEYS.cells, field) == cell
    assert await ran("reconcile", "a1", "--address", studio.address) == 0
    assert printed(capsys) == ["a1: all adds up, over 3 ledger entries"]


async def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert await ran("ledger", "a1", "--address", address) == 1
    assert await ran("reconcile", "a1", "--address", address) == 1
    assert capsys.readouterr().err.count(f"holdgate: {address}: UNAVAILABLE") == 2
