"""kill -9 of a server: what was answered stays, what was left hanging comes back, nobody else writes the data."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

import pytest
from grpc import aio
from quota.v1.admin_service_pb2 import GetHoldRequest
from quota.v1.quota_service_pb2 import HOLD_STATE_EXPIRED, HOLD_STATE_SETTLED

from tests.rpc.processes import holdgate
from tests.store_state import StoredHold, balance_of, broken_rules, snapshot
from tests.stores import RunningStore
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, embedded_store, kill, owner_of, runs, serving
from tests.waiting import until

OPENING: Final = 1_000_000
KILLS: Final = 3
WORKERS: Final = 8
ANSWERS_BEFORE_A_KILL: Final = 200
SOME: Final = 20
TENANT_KEYS: Final = b"hg:{lab/acme}:"
EXPIRED: Final = 4


async def test_a_hold_is_settled_after_a_kill_and_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        gateway = Gateway(channels[0])
        await gateway.open_account(100)
        hold = await gateway.take("r-1")
        kill(server)
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        gateway = Gateway(channels[0])
        settled = await gateway.settle(hold.hold_id, 7)
        assert (settled.state, settled.applied) == (HOLD_STATE_SETTLED, True)
        balance = await gateway.credits()
        assert (balance.held, balance.remaining) == (0, 93)


async def test_a_hold_that_nobody_settles_after_a_kill_is_swept_up_without_any_traffic(tmp_path: Path) -> None:
    """Looked at in the store alone, as any call for the tenant would itself expire what is overdue."""
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        gateway = Gateway(channels[0])
        await gateway.open_account(100)
        await gateway.take("r-1", "brief")
        kill(server)
    async with serving(tmp_path, "--sweep-interval-ms", "500") as server, channels_to(server.address) as channels:
        store = embedded_store(tmp_path)
        lease_end = stored_hold(store).lease_end
        await until(lambda: stored_hold(store).state == EXPIRED, what="the sweeper to end the hold", within_s=10)
        assert store_time_ms(store) >= lease_end
        assert held_in(store) == 0
        assert store.command("EXISTS", TENANT_KEYS + b"due") == 0
        assert broken_rules(snapshot(store)) == []
        gateway = Gateway(channels[0])
        balance = await gateway.credits()
        assert (balance.held, balance.remaining) == (0, 100)
        hold = await gateway.operator.GetHold(GetHoldRequest(tenant="acme", hold_id="r-1"))
        assert hold.hold.state == HOLD_STATE_EXPIRED


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_nothing_that_was_answered_is_lost_when_servers_are_killed_under_load(tmp_path: Path, fsync: str) -> None:
    answered = await lives_under_load(tmp_path, fsync, kill_store=False)
    assert await holds_left(tmp_path, answered) == answered


async def test_nothing_that_was_answered_is_lost_when_a_store_is_killed_that_writes_always(tmp_path: Path) -> None:
    answered = await lives_under_load(tmp_path, "always", kill_store=True)
    assert await holds_left(tmp_path, answered) == answered


async def test_what_is_left_adds_up_when_a_store_is_killed_that_writes_every_second(tmp_path: Path) -> None:
    """It answers while the disk is busy with an earlier second, before it has written: the last answers may be lost."""
    answered = await lives_under_load(tmp_path, "everysec", kill_store=True)
    assert await holds_left(tmp_path, answered) <= answered


async def lives_under_load(folder: Path, fsync: str, *, kill_store: bool) -> set[str]:
    """Starts and kills a server again and again while it grants; the holds that its callers were told of."""
    answered: set[str] = set()
    owners: set[int] = set()
    for life in range(KILLS):
        async with serving(folder, "--fsync", fsync) as server:
            owner = owner_of(folder)
            assert not any(map(runs, owners)), "two stores had the data folder at once"
            owners.add(owner.store_pid)
            async with channels_to(server.address, each=WORKERS) as channels, asyncio.TaskGroup() as crew:
                if not life:
                    await Gateway(channels[0]).open_account(OPENING)
                    embedded_store(folder).command("WAITAOF", 1, 0, 0)
                for number, channel in enumerate(channels):
                    crew.create_task(reserve_until_killed(Gateway(channel), f"{life}-{number}", answered))
                await more_of(answered, ANSWERS_BEFORE_A_KILL)
                if kill_store:
                    os.kill(owner.store_pid, signal.SIGKILL)
                kill(server)
    return answered


async def holds_left(folder: Path, answered: set[str]) -> set[str]:
    """Which of the holds are there after another start; everything in the store must add up."""
    async with serving(folder) as server, channels_to(server.address) as channels:
        gateway = Gateway(channels[0])
        store = embedded_store(folder)
        left = {hold_id for hold_id in answered if store.command("EXISTS", f"{TENANT_KEYS.decode()}h:{hold_id}")}
        assert broken_rules(snapshot(store)) == []
        # A call that was cut off may have taken its place unanswered: one for each worker and life at most.
        balance = await gateway.credits()
        assert len(left) * PRICE <= balance.held <= (len(left) + KILLS * WORKERS) * PRICE
        assert balance.held + balance.remaining == OPENING
        for hold_id in sorted(left)[:SOME]:
            assert (await gateway.settle(hold_id, 1)).applied
    return left


async def test_an_embedded_store_ends_with_its_killed_server_and_leaves_the_folder_free(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        orphan = owner_of(tmp_path).store_pid
        kill(server)
        await until(lambda: not runs(orphan), what="the store to end", within_s=5)
        async with serving(tmp_path) as successor:
            owner = owner_of(tmp_path)
            assert owner.server_pid == successor.process.pid
            assert owner.store_pid != orphan


async def test_a_store_that_cannot_die_keeps_its_folder_and_the_next_server_says_whom_to_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        gateway = Gateway(channels[0])
        await gateway.open_account(100)
        await gateway.take("r-1")
        owner = owner_of(tmp_path)
        os.kill(owner.store_pid, signal.SIGSTOP)  # the kernel tells it to end, and it cannot yet
        kill(server)
    try:
        second = await asyncio.to_thread(holdgate, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{tmp_path}/data")
        assert second.returncode == 1
        assert f"is in use by the store with process id {owner.store_pid}" in second.stderr
        assert f"HOLDGATE_REDIS_URL={owner.url}" in second.stderr
        assert f"kill {owner.store_pid}" in second.stderr
        assert owner_of(tmp_path) == owner
    finally:
        os.kill(owner.store_pid, signal.SIGCONT)
    async with serving(tmp_path) as server, channels_to(server.address) as channels:
        assert not runs(owner.store_pid)
        assert (await Gateway(channels[0]).credits()).held == PRICE


async def reserve_until_killed(gateway: Gateway, name: str, answered: set[str]) -> None:
    """Takes one piece of work after the other, and notes each that was granted, until the server is gone."""
    number = 0
    while True:
        number += 1
        try:
            decision = await gateway.take(f"{name}-{number}")
        except aio.AioRpcError:
            return
        answered.add(decision.hold_id)


async def more_of(answered: set[str], more: int) -> None:
    enough = len(answered) + more
    await until(lambda: len(answered) >= enough, what=f"{more} answers more")


def stored_hold(store: RunningStore) -> StoredHold:
    return StoredHold.parse(store.command("GET", TENANT_KEYS + b"h:r-1"))


def held_in(store: RunningStore) -> int:
    """What the balance's cell says is held."""
    cells = dict(zip(*[iter(store.command("HGETALL", TENANT_KEYS + b"cells"))] * 2, strict=True))
    (balance,) = [raw for field, raw in cells.items() if field.startswith(b"credits~")]
    return balance_of(balance)["held"]


def store_time_ms(store: RunningStore) -> int:
    seconds, micros = store.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
