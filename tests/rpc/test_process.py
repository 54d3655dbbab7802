"""A real server process: how it stops, what a signal does, what it says when it cannot start."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from quota.v1 import decision_pb2
from quota.v1.admin_service_pb2 import GetPolicyRequest
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import CheckAndReserveRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from tests.rpc.conftest import POLICY
from tests.rpc.healths import health_turns
from tests.rpc.processes import holdgate, server_process
from tests.stores import running_store
from tests.waiting import until

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
MEMORY = ("--store", "memory", "--policies", str(POLICY))
POLL = CheckAndReserveRequest(tenant="acme", action="poll")


async def test_calls_are_still_answered_while_health_says_that_the_server_goes(tmp_path: Path) -> None:
    with server_process(tmp_path, *MEMORY, "--drain-seconds", "60") as server:
        async with aio.insecure_channel(server.address) as channel:
            await health_turns(channel, SERVING)
            server.send(signal.SIGTERM)
            await health_turns(channel, NOT_SERVING)
            answer = await QuotaServiceStub(channel).CheckAndReserve(POLL)
            assert answer.decision.outcome == decision_pb2.OUTCOME_GRANTED
            server.send(signal.SIGTERM)  # a second one ends the wait
            assert await asyncio.to_thread(server.exit_status) == 0


async def test_a_call_in_work_is_finished_before_the_server_ends(tmp_path: Path) -> None:
    with (
        running_store("--appendonly", "yes") as store,
        server_process(
            tmp_path,
            *("--policies", str(POLICY), "--redis-url", store.url),
            *("--store-timeout-ms", "10000", "--drain-seconds", "0"),
        ) as server,
    ):
        async with aio.insecure_channel(server.address) as channel:
            await health_turns(channel, SERVING)
            store.freeze()
            call = QuotaServiceStub(channel).CheckAndReserve(POLL)
            await health_turns(channel, SERVING)  # asked on the same connection after the call, so that has arrived
            server.send(signal.SIGTERM)
            await until(lambda: "server.draining" in server.log(), what="the server to drain")
            assert not call.done()
            store.thaw()
            assert (await call).decision.outcome == decision_pb2.OUTCOME_GRANTED
            assert await asyncio.to_thread(server.exit_status) == 0


async def test_sighup_takes_a_good_policy_and_never_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.read_text())
    with server_process(tmp_path, "--store", "memory", "--policies", str(path), "--drain-seconds", "0") as server:
        async with aio.insecure_channel(server.address) as channel:
            operator = AdminServiceStub(channel)
            before = (await operator.GetPolicy(GetPolicyRequest())).version
            path.write_text("policy: lab\nlimits: 7\n")
            server.send(signal.SIGHUP)
            await until(lambda: "policy.rejected" in server.log(), what="the rejection")
            assert f"{path}:2" in server.log()
            assert (await operator.GetPolicy(GetPolicyRequest())).version == before
            path.write_text(POLICY.read_text().replace("limit: 2", "limit: 3"))
            server.send(signal.SIGHUP)
            await until(lambda: "policy.reloaded" in server.log(), what="the reload")
            assert (await operator.GetPolicy(GetPolicyRequest())).version != before


async def test_decisions_are_logged_as_json_when_asked_for(tmp_path: Path) -> None:
    with server_process(tmp_path, *MEMORY, "--decision-log-rate", "1") as server:
        async with aio.insecure_channel(server.address) as channel:
            request = CheckAndReserveRequest(
                tenant="acme", action="work", scope={"project": "p"}, amounts={"credits": 9}
            )
            await QuotaServiceStub(channel).CheckAndReserve(request)
        events = [json.loads(line) for line in server.log().splitlines()]
    (event,) = [event for event in events if event["event"] == "quota.decided"]
    assert (event["tenant"], event["action"], event["outcome"]) == ("acme", "work", "refused")
    assert event["code"] == "insufficient_credits"
    assert event["duration_us"] > 0


async def test_a_second_server_on_a_port_says_so_and_ends(tmp_path: Path) -> None:
    with server_process(tmp_path, *MEMORY) as server:
        second = await asyncio.to_thread(holdgate, "serve", *MEMORY, "--listen", server.address)
    assert second.returncode == 1
    assert f"holdgate: cannot listen on {server.address}" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--listen", "nowhere"], {}, "holdgate: --listen=nowhere: expected host:port"),
        ([], {"HOLDGATE_STORE_TIMEOUT_MS": "soon"}, "holdgate: HOLDGATE_STORE_TIMEOUT_MS=soon: "),
        (["--store", "redis"], {}, "holdgate: --store redis needs --redis-url or HOLDGATE_REDIS_URL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_in_one_line(
    flags: list[str], variables: dict[str, str], said: str
) -> None:
    ended = holdgate("serve", *flags, env=variables)
    assert ended.returncode == 2
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1
