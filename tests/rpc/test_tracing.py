"""What a collector is told: a span for each call, in its caller's trace, and one for each script that it runs."""

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from grpc import StatusCode, aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from quota.v1.admin_service_pb2 import Account, PutAccountRequest
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import (
    BatchRequest,
    CheckAndReserveRequest,
    Operation,
    SettleRequest,
    StreamRequest,
)
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server import logs
from server.bootstrap import App, StartError, running
from server.settings import Settings
from server.tracing import export
from tests.rpc.collector import Collector, attributes_of, collecting
from tests.rpc.conftest import MakeSettings
from tests.rpc.healths import health_turns
from tests.rpc.test_json import call as call_as_json

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER: Final = "00f067aa0ba902b7"
SAMPLED: Final = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=7"))
UNSAMPLED: Final = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)
RESERVE: Final = "quota.v1.QuotaService/CheckAndReserve"
OURS: Final = {"holdgate.policy", "holdgate.tenant", "holdgate.action", "holdgate.outcome", "holdgate.code"}
"""All that is ever told of a single request."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(params=["asgi", "grpcio"])
def traced(request: pytest.FixtureRequest, make_settings: MakeSettings, collector: Collector) -> Settings:
    """Settings of a server that traces what its callers trace, on each transport."""
    return make_settings(
        transport=request.param,
        store="embedded",
        store_timeout_ms=10_000,
        otlp_endpoint=collector.url,
        trace_rate=0,
    )


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[App, QuotaServiceStub]]:
    """A server with a tenant; what it has traced is at its collector once the block is left."""
    async with running(settings) as app, aio.insecure_channel(app.address) as channel:
        await health_turns(channel, HealthCheckResponse.SERVING)
        await AdminServiceStub(channel).PutAccount(PutAccountRequest(tenant="acme", account=Account(plan="free")))
        yield app, QuotaServiceStub(channel)


def work(request_id: str, **more: Any) -> CheckAndReserveRequest:  # noqa: ANN401  # any field
    fields = {"action": "work", "scope": {"project": "p1"}, "amounts": {"credits": 40}, "tenant": "acme", **more}
    return CheckAndReserveRequest(request_id=request_id, **fields)


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


async def test_a_decision_is_a_span_in_its_callers_trace_and_its_script_another_in_it(
    traced: Settings, collector: Collector
) -> None:
    async with served(traced) as (_, quota):
        await quota.CheckAndReserve(work("r-secret"), metadata=SAMPLED)
    call, script = only(collector.named(RESERVE)), only(collector.named("EVALSHA reserve"))
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.trace_state) == (TRACE, CALLER, "vendor=7")
    assert call.kind == Span.SPAN_KIND_SERVER
    assert attributes_of(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": RESERVE,
        "rpc.response.status_code": "OK",
        "holdgate.tenant": "acme",
        "holdgate.action": "work",
        "holdgate.outcome": "granted",
    }
    assert (script.trace_id, script.parent_span_id) == (call.trace_id, call.span_id)
    assert script.kind == Span.SPAN_KIND_CLIENT
    assert attributes_of(script) == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "reserve",
    }
    assert call.start_time_unix_nano <= script.start_time_unix_nano
    assert script.end_time_unix_nano <= call.end_time_unix_nano
    assert not any(b"r-secret" in span.SerializeToString() for span in collector.spans)
    assert {(r["service.name"], "service.version" in r) for r in collector.resources} == {("holdgate", True)}


async def test_how_a_call_ended_is_told_by_names_that_policies_and_code_have(
    traced: Settings, collector: Collector
) -> None:
    async with served(traced) as (_, quota):
        asks: list[tuple[aio.UnaryUnaryMultiCallable[Any, Any], Any]] = [
            (quota.CheckAndReserve, work("r-1", amounts={"credits": 1000})),
            (quota.CheckAndReserve, work("r-2", amounts={"credits": 1000}, deny_as_status=True)),
            (quota.CheckAndReserve, work("r-3", action="sing")),
            (quota.Settle, SettleRequest(tenant="acme", hold_id="nobody's")),
        ]
        for method, request in asks:
            await asyncio.gather(method(request, metadata=SAMPLED), return_exceptions=True)
    ends = [attributes_of(span) for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    refused = {"holdgate.outcome": "refused", "holdgate.code": "insufficient_credits"}
    assert ends[0].items() >= (refused | {"rpc.response.status_code": "OK"}).items()
    assert ends[1].items() >= (refused | {"rpc.response.status_code": "RESOURCE_EXHAUSTED"}).items()
    told = [(end["rpc.response.status_code"], end["error.type"]) for end in ends[2:]]
    assert told == [
        ("INVALID_ARGUMENT", "ERROR_REASON_INVALID_REQUEST"),
        ("NOT_FOUND", "ERROR_REASON_HOLD_NOT_FOUND"),
    ]
    assert {name for end in ends for name in end if name.startswith("holdgate.")} <= OURS
    assert {span.status.code for span in collector.spans} == {Status.STATUS_CODE_UNSET}


async def test_a_call_that_its_caller_does_not_trace_is_told_to_nobody(traced: Settings, collector: Collector) -> None:
    async with served(traced) as (_, quota):
        await quota.CheckAndReserve(work("r-1"), metadata=UNSAMPLED)
        await quota.CheckAndReserve(work("r-2"))
        await quota.CheckAndReserve(work("r-3"), metadata=(("traceparent", "00-no-trace-at-all"),))
    assert collector.spans == []


async def test_calls_without_a_trace_are_traced_at_the_rate_and_what_runs_by_itself_is_not(
    traced: Settings, collector: Collector
) -> None:
    async with served(traced.model_copy(update={"trace_rate": 1.0, "sweep_interval_ms": 10})) as (_, quota):
        for number in range(3):
            await quota.CheckAndReserve(work(f"r-{number}", amounts={"credits": 1}))
        await quota.CheckAndReserve(work("r-4", amounts={"credits": 1}), metadata=UNSAMPLED)
    calls = collector.named(RESERVE)
    assert len({call.trace_id for call in calls}) == len(calls) == 3
    names = {span.name for span in collector.spans}
    assert names == {RESERVE, "EVALSHA reserve", "quota.v1.AdminService/PutAccount", "EVALSHA find", "EVALSHA account"}


async def test_the_operations_of_a_batch_are_scripts_of_one_call(traced: Settings, collector: Collector) -> None:
    async with served(traced) as (_, quota):
        operations = [Operation(check_and_reserve=work(f"r-{n}", amounts={"credits": 1})) for n in range(4)]
        await quota.Batch(BatchRequest(operations=operations), metadata=SAMPLED)
    call = only(collector.named("quota.v1.QuotaService/Batch"))
    assert attributes_of(call)["holdgate.operations"] == 4
    assert [span.parent_span_id for span in collector.named("EVALSHA reserve")] == [call.span_id] * 4


async def test_a_stream_is_one_span_and_its_scripts_are_linked_to_it(traced: Settings, collector: Collector) -> None:
    """A stream may last for days: its trace would never end."""
    async with served(traced.model_copy(update={"trace_rate": 1.0})) as (_, quota):
        requests = [StreamRequest(operation=Operation(check_and_reserve=work("r-1")))]
        answers = quota.Stream(iter(requests), metadata=SAMPLED)
        assert [answer.result.HasField("error") async for answer in answers] == [False]
    call, script = only(collector.named("quota.v1.QuotaService/Stream")), only(collector.named("EVALSHA reserve"))
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, CALLER)
    assert script.trace_id != call.trace_id
    assert [link.span_id for link in script.links] == [call.span_id]


async def test_a_call_as_json_is_in_its_callers_trace_too(make_settings: MakeSettings, collector: Collector) -> None:
    async with running(make_settings(transport="asgi", otlp_endpoint=collector.url)) as app:
        ask = {"tenant": "acme", "requestId": "r-1", "action": "poll"}
        status, _ = await call_as_json(app, "CheckAndReserve", ask, traceparent=SAMPLED[0][1])
        assert status == 200
    assert only(collector.named(RESERVE)).trace_id.hex() == TRACE


async def test_a_store_that_fails_is_seen_in_the_script_and_in_the_call(traced: Settings, collector: Collector) -> None:
    nowhere = traced.model_copy(update={"store": "redis", "redis_url": "redis://127.0.0.1:1"})
    async with running(nowhere) as app, aio.insecure_channel(app.address) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await QuotaServiceStub(channel).CheckAndReserve(work("r-1"), metadata=SAMPLED)
        assert caught.value.code() is StatusCode.UNAVAILABLE
    assert {(span.status.code, attributes_of(span)["error.type"]) for span in collector.spans} == {
        (Status.STATUS_CODE_ERROR, "disconnected"),
        (Status.STATUS_CODE_ERROR, "ERROR_REASON_STORE_UNAVAILABLE"),
    }


async def test_the_log_of_a_traced_call_names_its_trace(traced: Settings) -> None:
    text = io.StringIO()
    before = logging.getLogger().handlers[:]
    logs.configure("info", text)
    try:
        async with served(traced.model_copy(update={"decision_log_rate": 1.0})) as (_, quota):
            await quota.CheckAndReserve(work("r-1", amounts={"credits": 1}), metadata=SAMPLED)
            await quota.CheckAndReserve(work("r-2", amounts={"credits": 1}))
    finally:
        logging.getLogger().handlers[:] = before
    lines = [json.loads(line) for line in text.getvalue().splitlines() if "quota.decided" in line]
    assert [line.get("trace_id") for line in lines] == [TRACE, None]


@pytest.mark.parametrize("listens", [False, True], ids=["gone", "silent"])
async def test_a_collector_that_takes_nothing_fails_no_decision_and_holds_up_no_end(
    listens: bool,  # noqa: FBT001  # a case
    traced: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "FLUSH_S", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if listens:
            nobody.listen()
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with asyncio.timeout(export.FLUSH_S + 20):
            async with served(traced.model_copy(update={"otlp_endpoint": endpoint})) as (_, quota):
                for number in range(20):
                    ask = work(f"r-{number}", action="poll", amounts={})
                    await quota.CheckAndReserve(ask, metadata=SAMPLED, timeout=5)


def test_a_server_that_does_not_trace_does_not_load_opentelemetry() -> None:
    code = "import sys, server.bootstrap; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603  # our own words


async def test_without_the_libraries_the_start_says_what_to_install(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("server.tracing.") and "opened" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(StartError, match=r"--otlp-endpoint needs .* pip install 'holdgate\[tracing\]'"):
        async with running(make_settings(otlp_endpoint="http://127.0.0.1:4318")):
            pass


def test_an_endpoint_that_is_no_url_stops_the_start(make_settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        make_settings(otlp_endpoint="127.0.0.1:4318")
