"""Plays the credit gate over real gRPC: fifty renders at once on an account with money for four.

Starts a server with an embedded store in a temporary directory, fires the renders from eight connections, settles what
was delivered, lets one worker die, and checks the closing balance to the unit. Exits 1 when one credit is off.
"""

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc, quota_service_pb2_grpc, test_clock_service_pb2_grpc
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import test_clock_service_pb2 as test_clock
from rich.console import Console
from rich.table import Table

POLICY = "credit-gate"
TENANT = "demo"
OPENING = 45
PRICE = 10
RENDERS = 50
CONNECTIONS = 8
START_MS = 1_773_144_000_000
LEASE_MS = 30 * 60 * 1000
READY_WITHIN_S = 60


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """A server of our own with a clock that we set; its address."""
    address = f"127.0.0.1:{free_port()}"
    arguments = ["serve", "--listen", address, "--data-dir", str(folder / "data"), "--test-clock"]
    arguments += ["--drain-seconds", "0", "--policies", "policies/credit-gate.yaml"]
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        server = await asyncio.create_subprocess_exec(sys.executable, "-m", "server", *arguments, stderr=log)
        try:
            if not await until_ready(address, server):
                raise SystemExit(f"the server did not start:\n{log_path.read_text()}")
            yield address
        finally:
            if server.returncode is None:
                server.terminate()
            await server.wait()


async def until_ready(address: str, server: asyncio.subprocess.Process) -> bool:
    """Waits for the health service to say SERVING; False when the server ended instead."""
    async with asyncio.timeout(READY_WITHIN_S), grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while server.returncode is None:
            try:
                ask = health_pb2.HealthCheckRequest()
                answer = await health.Check(ask, wait_for_ready=True, timeout=1)  # type: ignore[attr-defined]  # stub lacks it
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return True
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)  # not listening yet; the loop ends with the server or the time-out
    return False


def render(number: int) -> quota.CheckAndReserveRequest:
    """One five-second clip of the model that costs ten credits."""
    clip = quota.Item(id="clip", product="v-pro", quantity={"video_ms": 5000})
    return quota.CheckAndReserveRequest(
        policy=POLICY,
        tenant=TENANT,
        request_id=f"render-{number}",
        action="generate_clip",
        scope={"model": "v-pro"},
        items=[clip],
    )


def settle(hold_id: str, delivered: int, reserved: int) -> quota.SettleRequest:
    """The share of a render that was delivered."""
    share = quota.Fraction(delivered=delivered, reserved=reserved)
    return quota.SettleRequest(policy=POLICY, tenant=TENANT, hold_id=hold_id, fraction=share)


async def balance(stub: quota_service_pb2_grpc.QuotaServiceStub) -> decided.LimitStatus:
    """The balance's figures now."""
    usage = await stub.GetUsage(quota.GetUsageRequest(policy=POLICY, tenant=TENANT))
    return next(limit for limit in usage.limits if limit.id == "credits")


async def play(address: str, console: Console) -> int:
    """The story; the number of credits by which it went wrong."""
    async with grpc.aio.insecure_channel(address) as channel:
        clock = test_clock_service_pb2_grpc.TestClockServiceStub(channel)
        await clock.SetTime(test_clock.SetTimeRequest(now_ms=START_MS))
        accounts = admin_service_pb2_grpc.AdminServiceStub(channel)
        account = admin.Account(plan="free")
        await accounts.PutAccount(admin.PutAccountRequest(policy=POLICY, tenant=TENANT, account=account))
        stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
        opening = (await balance(stub)).remaining

        own_connection = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(address, options=own_connection) for _ in range(CONNECTIONS)]
        stubs = [quota_service_pb2_grpc.QuotaServiceStub(one) for one in channels]
        calls = [stubs[number % CONNECTIONS].CheckAndReserve(render(number)) for number in range(RENDERS)]
        decisions = [(await call).decision for call in calls]
        for one in channels:
            await one.close()
        admitted = [d.hold_id for d in decisions if d.outcome == decided.OUTCOME_GRANTED]
        refused = [d.refusal for d in decisions if d.outcome == decided.OUTCOME_REFUSED]
        held = (await balance(stub)).held
        show_refusals(console, len(admitted), refused)
        if len(admitted) != OPENING // PRICE:
            console.print(f"[red]{len(admitted)} renders were admitted; {OPENING // PRICE} have money[/]")
            return abs(len(admitted) - OPENING // PRICE) * PRICE

        table = Table("render", "what happened", "charged", "left", title="What was delivered is what is charged")
        charged = 0
        outcomes = [("delivered", 2), ("half delivered", 1), ("failed", 0)]
        for hold_id, (what, parts) in zip(admitted[:3], outcomes, strict=True):
            answer = await stub.Settle(settle(hold_id, parts, 2))
            used = next(meter.used for meter in answer.meters if meter.meter == "credits")
            charged += used
            table.add_row(hold_id, what, str(used), str((await balance(stub)).remaining))
        await clock.SetTime(test_clock.SetTimeRequest(now_ms=START_MS + LEASE_MS))
        closing = await balance(stub)
        table.add_row(admitted[3], "its worker died; the lease ended", "0", str(closing.remaining))
        console.print(table)

    expected = OPENING - PRICE - PRICE // 2
    off = abs(opening - OPENING) + abs(held - len(admitted) * PRICE) + abs(closing.remaining - expected)
    off += abs(charged - (OPENING - expected)) + closing.held
    console.print(f"opening {opening}, charged {charged}, closing {closing.remaining}, expected {expected}")
    return off


def show_refusals(console: Console, admitted: int, refused: list[decided.Refusal]) -> None:
    """Who got in, and what the others were told."""
    table = Table("answer", "renders", "needed", "have", "message", title=f"{RENDERS} renders of {PRICE} at once")
    table.add_row("granted", str(admitted), "", "", "")
    groups: dict[tuple[str, str, str, str], int] = {}
    for refusal in refused:
        details = refusal.details
        told = (refusal.code, f"{details['needed']:.0f}", f"{details['have']:.0f}", refusal.message)
        groups[told] = groups.get(told, 0) + 1
    for (code, needed, have, message), count in groups.items():
        table.add_row(code, str(count), needed, have, message)
    console.print(table)


async def main() -> int:
    """Runs the story on a server of its own."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder)) as address:
            off = await play(address, console)
    console.print(f"oversold {off}")
    return min(off, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
