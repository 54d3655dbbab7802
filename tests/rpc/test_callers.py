"""Who may ask what about whom: every caller, method and tenant, on both transports."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.rpc.status_pb2 import Status
from grpc import StatusCode, aio
from proxies import envoy_ratelimit_v3_pb2 as rls
from proxies.envoy_ratelimit_v3_pb2_grpc import RateLimitServiceStub
from proxies.kuadrant_ratelimit_v1_pb2_grpc import RateLimitServiceStub as KuadrantStub
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import operators_pb2 as operators
from quota.v1 import quota_service_pb2 as quota
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from structlog.testing import capture_logs

from server import cli
from server.bootstrap import App, StartError, running
from tests.certificates import Authority
from tests.proxies.asking import asked, described
from tests.rpc.conftest import MakeSettings
from tests.rpc.faults import fault_of
from tests.rpc.healths import health_now

TENANTS: Final = ("acme", "team-7", "other")
IN, UNKNOWN, DENIED = "let in", StatusCode.UNAUTHENTICATED.name, StatusCode.PERMISSION_DENIED.name
ANSWER_S: Final = 20


def hashed(token: str) -> str:
    return sha256(token.encode()).hexdigest()


CALLERS: Final = f"""\
callers:
  - name: gateway
    tokens_sha256: [{hashed("gateway")}, {hashed("gateway's next")}]
    allow:
      - methods: [quota.v1.QuotaService/*, envoy.service.ratelimit.v3.RateLimitService/*, /authorize]
        tenants: [acme, team-*]
      - methods: [kuadrant.service.ratelimit.v1.RateLimitService/CheckRateLimit]
        tenants: [team-*]
  - name: reader
    tokens_sha256: [{hashed("reader")}]
    allow:
      - methods: [quota.v1.QuotaService/GetUsage, quota.v1.QuotaService/Batch, quota.v1.QuotaService/Stream]
        tenants: ["*"]
      - methods: [quota.v1.QuotaService/CheckAndReserve]
        tenants: [acme]
  - name: operator
    tokens_sha256: [{hashed("operator")}]
    allow:
      - methods: [quota.v1.AdminService/*]
        tenants: ["*"]
  - name: support
    tokens_sha256: [{hashed("support")}]
    allow:
      - methods: [quota.v1.AdminService/ResetLimit, quota.v1.AdminService/ListAudit]
        tenants: [team-*]
"""

ALLOWED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "gateway": {
        **dict.fromkeys(("reserve", "usage", "batch", "stream", "json", "envoy", "authorize"), ("acme", "team-7")),
        "limitador": ("team-7",),
    },
    "reader": {"usage": TENANTS, **dict.fromkeys(("reserve", "batch", "stream", "json"), ("acme",))},
    "operator": dict.fromkeys(("account", "reset", "adjust", "delete", "audit", "audit of all"), TENANTS),
    "support": dict.fromkeys(("reset", "audit"), ("team-7",)),
}
"""What of each method each caller may ask about; nothing else."""

Metadata = tuple[tuple[str, str], ...]
Ask = Callable[[App, aio.Channel, str, Metadata], Awaitable[str]]


async def ended(call: Awaitable[Any]) -> str:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code().name if error.code().name in {UNKNOWN, DENIED} else IN
    return IN


def poll(tenant: str) -> quota.CheckAndReserveRequest:
    return quota.CheckAndReserveRequest(tenant=tenant, action="poll")


def of(result: quota.OperationResult) -> str:
    if not result.HasField("error"):
        return IN
    code = next(code for code in StatusCode if code.value[0] == result.error.code)
    assert Status.FromString(result.error.details).code == result.error.code
    return code.name


async def reserve(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(QuotaServiceStub(channel).CheckAndReserve(poll(tenant), metadata=metadata))


async def usage(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(QuotaServiceStub(channel).GetUsage(quota.GetUsageRequest(tenant=tenant), metadata=metadata))


async def batch(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    """Beside another operation that is about acme, which must not lend it what it may."""
    operations = [quota.Operation(check_and_reserve=poll(name)) for name in ("acme", tenant, "acme")]
    try:
        answer = await QuotaServiceStub(channel).Batch(quota.BatchRequest(operations=operations), metadata=metadata)
    except aio.AioRpcError as error:
        return error.code().name
    return of(answer.results[1])


async def stream(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    call = QuotaServiceStub(channel).Stream(metadata=metadata)
    with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # it may be over before anything is written
        await call.write(quota.StreamRequest(operation=quota.Operation(check_and_reserve=poll(tenant))))
        await call.done_writing()
    try:
        response = await call.read()
    except aio.AioRpcError as error:
        return error.code().name
    return of(response.result) if isinstance(response, quota.StreamResponse) else (await call.code()).name


async def account(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(AdminServiceStub(channel).GetAccount(admin.GetAccountRequest(tenant=tenant), metadata=metadata))


async def reset(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    request = operators.ResetLimitRequest(tenant=tenant, limit_id="rpm", reset_id="r", reason="why")
    return await ended(AdminServiceStub(channel).ResetLimit(request, metadata=metadata))


async def adjust(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    request = operators.AdjustLimitRequest(tenant=tenant, limit_id="credits", adjustment_id="a", reason="why", add=1)
    return await ended(AdminServiceStub(channel).AdjustLimit(request, metadata=metadata))


async def delete(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    request = operators.DeleteTenantRequest(tenant=tenant, reason="why", force=True)
    return await ended(AdminServiceStub(channel).DeleteTenant(request, metadata=metadata))


async def audit(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(
        AdminServiceStub(channel).ListAudit(operators.ListAuditRequest(tenant=tenant), metadata=metadata)
    )


async def audit_of_all(app: App, channel: aio.Channel, _tenant: str, metadata: Metadata) -> str:
    return await audit(app, channel, "", metadata)


def descriptors(tenant: str) -> rls.RateLimitRequest:
    return asked(described({"org": tenant, "action": "poll"}), domain="lab")


async def envoy(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(RateLimitServiceStub(channel).ShouldRateLimit(descriptors(tenant), metadata=metadata))


async def limitador(_app: App, channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    return await ended(KuadrantStub(channel).CheckRateLimit(descriptors(tenant), metadata=metadata))


async def as_json(app: App, _channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    headers = {"content-type": "application/json", **dict(metadata)}
    body = json.dumps({"tenant": tenant, "action": "poll"}).encode()
    status, text = await http(f"http://{app.address}/quota.v1.QuotaService/CheckAndReserve", body, headers)
    return {200: IN, 401: UNKNOWN, 403: DENIED}[status] if status != 200 or b"decision" in text else "?"


async def authorize(app: App, _channel: aio.Channel, tenant: str, metadata: Metadata) -> str:
    headers = {"x-quota-tenant": tenant, "x-quota-action": "poll", **dict(metadata)}
    status, text = await http(f"http://{app.address}/authorize", None, headers)
    if status in {204, 403}:  # 403 is how nginx is told of a refusal
        return IN
    assert status == 400
    return DENIED if b" may not " in text else UNKNOWN


async def http(url: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    def ask() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=ANSWER_S) as found:  # noqa: S310  # loopback
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    return await asyncio.to_thread(ask)


OVER_GRPC: Final[dict[str, Ask]] = {
    "reserve": reserve,
    "usage": usage,
    "batch": batch,
    "stream": stream,
    "account": account,
    "reset": reset,
    "adjust": adjust,
    "delete": delete,
    "audit": audit,
    "audit of all": audit_of_all,
    "envoy": envoy,
    "limitador": limitador,
}
OVER_HTTP: Final[dict[str, Ask]] = {"json": as_json, "authorize": authorize}


@pytest.fixture
def callers_file(tmp_path: Path) -> Path:
    path = tmp_path / "callers.yaml"
    path.write_text(CALLERS)
    return path


@asynccontextmanager
async def serving(make_settings: MakeSettings, **changes: Any) -> AsyncIterator[tuple[App, aio.Channel]]:  # noqa: ANN401  # any setting
    async with (
        running(make_settings(test_clock=False, **changes)) as app,
        aio.insecure_channel(app.address) as channel,
    ):
        yield app, channel


def write(path: Path, text: str) -> None:
    path.write_text(text)


def shown(caller: str) -> Metadata:
    return (("authorization", f"Bearer {caller}"),) if caller else ()


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_every_caller_does_what_it_may_and_nothing_else(
    make_settings: MakeSettings, callers_file: Path, transport: str
) -> None:
    async with serving(make_settings, callers=callers_file, transport=transport) as (app, channel):
        asks = OVER_GRPC if transport == "grpcio" else OVER_GRPC | OVER_HTTP
        found, expected = {}, {}
        for caller in ("gateway", "reader", "operator", "support", "stranger", ""):
            for method, ask in asks.items():
                for tenant in TENANTS:
                    found[caller, method, tenant] = await ask(app, channel, tenant, shown(caller))
                    known = ALLOWED.get(caller)
                    may = known is not None and tenant in known.get(method, ())
                    expected[caller, method, tenant] = IN if may else UNKNOWN if known is None else DENIED
        assert found == expected
        assert await health_now(channel) is not None


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_caller_is_told_what_it_may_not_and_that_is_no_refusal(
    make_settings: MakeSettings, callers_file: Path, transport: str
) -> None:
    async with serving(make_settings, callers=callers_file, transport=transport) as (_, channel):
        stub = QuotaServiceStub(channel)
        nobody = await fault_of(stub.CheckAndReserve(poll("acme")))
        assert (nobody.status, nobody.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert "authorization: Bearer TOKEN" in nobody.message
        denied = await fault_of(stub.CheckAndReserve(poll("other"), metadata=shown("gateway")))
        assert (denied.status, denied.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        assert denied.message == "caller 'gateway' may not ask this about tenant 'other' of policy 'lab'"
        assert denied.metadata == {"caller": "gateway"}
        basic = await fault_of(stub.CheckAndReserve(poll("acme"), metadata=(("authorization", "Basic Zm9v"),)))
        assert "is not 'Bearer TOKEN'" in basic.message


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_each_sample_is_of_a_tenant_that_its_caller_may_report_on(
    make_settings: MakeSettings, callers_file: Path, transport: str
) -> None:
    """The policy samples nothing, which is told of those that the caller may report alone."""
    write(callers_file, CALLERS.replace("AdminService/ResetLimit,", "AdminService/RecordUsage,"))
    tenants = ("team-7", "other", "team-8", "acme")
    samples = [admin.UsageSample(tenant=tenant, meter="seconds", id=tenant, units=1) for tenant in tenants]
    async with serving(make_settings, callers=callers_file, transport=transport) as (_, channel):
        request = admin.RecordUsageRequest(samples=samples)
        answer = await AdminServiceStub(channel).RecordUsage(request, metadata=shown("support"))
    codes = [StatusCode.INVALID_ARGUMENT.value[0], StatusCode.PERMISSION_DENIED.value[0]]
    assert [result.error.code for result in answer.others] == [codes[0], codes[1], codes[0], codes[1]]


async def test_callers_are_read_again_with_the_policies_and_bad_ones_change_nothing(
    make_settings: MakeSettings, callers_file: Path
) -> None:
    async with serving(make_settings, callers=callers_file) as (app, channel):
        operator = AdminServiceStub(channel)
        write(callers_file, CALLERS.replace("tenants: [acme, team-*]", "tenants: [oh no"))
        fault = await fault_of(operator.ReloadPolicy(admin.ReloadPolicyRequest(), metadata=shown("operator")))
        assert fault.status is StatusCode.FAILED_PRECONDITION
        assert str(callers_file) in fault.message
        assert await reserve(app, channel, "acme", shown("gateway")) == IN
        write(callers_file, CALLERS.replace(hashed("gateway"), hashed("changed")))
        await operator.ReloadPolicy(admin.ReloadPolicyRequest(), metadata=shown("operator"))
        assert await reserve(app, channel, "acme", shown("gateway")) == UNKNOWN
        assert await reserve(app, channel, "acme", shown("changed")) == IN
        assert await reserve(app, channel, "acme", shown("gateway's next")) == IN


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_certificate_shows_who_calls(make_settings: MakeSettings, tmp_path: Path, transport: str) -> None:
    authority = Authority(tmp_path)
    path = tmp_path / "callers.yaml"
    path.write_text("""\
callers:
  - name: gateway
    certificates: ["spiffe://prod/gateway"]
    allow: [{methods: [quota.v1.QuotaService/*], tenants: [acme]}]
  - name: reader
    certificates: [reader.example]
    allow: [{methods: [quota.v1.QuotaService/GetUsage], tenants: ["*"]}]
""")
    server = authority.server()
    settings = make_settings(
        transport=transport,
        test_clock=False,
        callers=path,
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.ca,
    )
    expected = {
        "spiffe://prod/gateway": (IN, DENIED, IN),
        "reader.example": (DENIED, DENIED, IN),
        "spiffe://test/gateway": (UNKNOWN, UNKNOWN, UNKNOWN),
    }
    async with running(settings) as app:
        for name, verdicts in expected.items():
            pair = authority.caller(name)
            credentials = grpc.ssl_channel_credentials(
                authority.ca.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
            )
            async with aio.secure_channel(app.address, credentials) as channel:
                found = (
                    await reserve(app, channel, "acme", ()),
                    await reserve(app, channel, "other", ()),
                    await usage(app, channel, "acme", ()),
                )
            assert (name, found) == (name, verdicts)


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_the_admin_service_is_served_at_its_own_address_alone(
    make_settings: MakeSettings, transport: str
) -> None:
    ask = admin.GetPolicyRequest()
    async with serving(make_settings, admin_address="127.0.0.1:0", transport=transport) as (app, channel):
        public, private = app.addresses
        assert public != private
        assert f"admin: {private}" in app.describe()
        with pytest.raises(aio.AioRpcError) as caught:
            await AdminServiceStub(channel).GetPolicy(ask)
        assert caught.value.code() is StatusCode.UNIMPLEMENTED
        async with aio.insecure_channel(private) as inside:
            assert (await AdminServiceStub(inside).GetPolicy(ask)).policy == "lab"
            with pytest.raises(aio.AioRpcError) as caught:
                await QuotaServiceStub(inside).CheckAndReserve(poll("acme"))
            assert caught.value.code() is StatusCode.UNIMPLEMENTED
            assert await health_now(inside, "quota.v1.AdminService") is not None


async def test_a_bad_file_of_callers_stops_the_start(make_settings: MakeSettings, callers_file: Path) -> None:
    write(callers_file, "callers: []")
    with pytest.raises(StartError, match=r"callers.yaml:1: callers: a list; expected at least 1 entry"):
        async with serving(make_settings, callers=callers_file):
            pass


async def test_the_log_tells_who_changed_what_and_how_that_ended(
    make_settings: MakeSettings, callers_file: Path
) -> None:
    async with serving(make_settings, callers=callers_file) as (_, channel):
        operator = AdminServiceStub(channel)
        with capture_logs() as told:
            account = admin.PutAccountRequest(tenant="acme", account=admin.Account(plan="free"))
            await operator.PutAccount(account, metadata=shown("operator"))
            await operator.GetAccount(admin.GetAccountRequest(tenant="acme"), metadata=shown("operator"))
            release = admin.ForceReleaseRequest(tenant="acme", hold_id="nobody's")
            await fault_of(operator.ForceRelease(release, metadata=shown("operator")))
    acts = [
        {k: v for k, v in entry.items() if k != "log_level"} for entry in told if entry["event"] == "operator.acted"
    ]
    common = {"event": "operator.acted", "caller": "operator", "tenant": "acme"}
    assert acts == [
        {**common, "method": "PutAccount", "status": "OK"},
        {**common, "method": "ForceRelease", "status": "NOT_FOUND", "hold_id": "nobody's"},
    ]


async def test_the_trail_tells_who_it_was(make_settings: MakeSettings, callers_file: Path) -> None:
    async with serving(make_settings, callers=callers_file) as (_, channel):
        stub = AdminServiceStub(channel)
        for caller in ("operator", "support"):
            request = operators.ResetLimitRequest(tenant="team-7", limit_id="rpm", reset_id=caller, reason="why")
            await stub.ResetLimit(request, metadata=shown(caller))
        listed = await stub.ListAudit(operators.ListAuditRequest(tenant="team-7"), metadata=shown("support"))
    assert [(entry.caller, entry.request_id) for entry in listed.entries] == [
        ("operator", "operator"),
        ("support", "support"),
    ]


async def test_commands_show_the_token_of_their_environment(
    make_settings: MakeSettings,
    callers_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(make_settings, callers=callers_file) as (app, _):
        words = ["usage", "acme", "--address", app.address]
        assert await asyncio.to_thread(cli.main, words) == cli.FAILED
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        monkeypatch.setenv("HOLDGATE_TOKEN", "reader")
        assert await asyncio.to_thread(cli.main, words) == cli.OK
        assert "rpm" in capsys.readouterr().out
