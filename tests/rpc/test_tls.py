"""TLS on both transports: who is served, who is turned away, and what is said of files that cannot be used."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import quota_service_pb2_grpc

from server import cli
from server.bootstrap import App, StartError, running
from server.domain.operation import TenantRef
from server.gate import QuotaGate
from server.views import LimitsView
from tests.certificates import Authority, Pair
from tests.rpc.conftest import MakeSettings
from tests.rpc.healths import health_turns

TIMEOUT_S = 10


@pytest.fixture(params=["asgi", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(make_settings: MakeSettings, transport: str, server: Pair, **more: Path) -> AsyncIterator[App]:
    settings = make_settings(transport=transport, tls_cert=server.certificate, tls_key=server.key, **more)
    async with running(settings) as app:
        yield app


async def limits_by(address: str, credentials: grpc.ChannelCredentials | None) -> quota.GetLimitsResponse:
    opened = aio.secure_channel(address, credentials) if credentials else aio.insecure_channel(address)
    async with opened as channel:
        stub = quota_service_pb2_grpc.QuotaServiceStub(channel)
        return await stub.GetLimits(quota.GetLimitsRequest(tenant="acme"), timeout=TIMEOUT_S)


def trusting(authority: Authority, shown: Pair | None = None) -> grpc.ChannelCredentials:
    pair = (shown.key.read_bytes(), shown.certificate.read_bytes()) if shown else (None, None)
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), *pair)


async def code_of(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    try:
        await limits_by(address, credentials)
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_caller_who_trusts_the_authority_is_answered(
    make_settings: MakeSettings, transport: str, authority: Authority
) -> None:
    async with serving(make_settings, transport, authority.server()) as app:
        assert await code_of(app.address, trusting(authority)) is grpc.StatusCode.OK


async def test_neither_plaintext_nor_another_authority_is_answered(
    make_settings: MakeSettings, transport: str, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "Another authority")
    async with serving(make_settings, transport, authority.server()) as app:
        assert await code_of(app.address, None) is grpc.StatusCode.UNAVAILABLE
        assert await code_of(app.address, trusting(stranger)) is grpc.StatusCode.UNAVAILABLE


async def test_with_a_client_authority_only_its_callers_are_answered(
    make_settings: MakeSettings, transport: str, authority: Authority, tmp_path: Path
) -> None:
    callers, strangers = Authority(tmp_path, "Callers"), Authority(tmp_path, "Strangers")
    async with serving(make_settings, transport, authority.server(), tls_client_ca=callers.ca) as app:
        known, unknown = callers.caller("gateway"), strangers.caller("stranger")
        assert await code_of(app.address, trusting(authority, known)) is grpc.StatusCode.OK
        assert await code_of(app.address, trusting(authority, unknown)) is grpc.StatusCode.UNAVAILABLE
        assert await code_of(app.address, trusting(authority)) is grpc.StatusCode.UNAVAILABLE


async def test_no_certificate_but_a_good_one_reaches_a_method(
    make_settings: MakeSettings,
    transport: str,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None, one of another authority, one too old or too new, one for servers: the handshake ends it."""
    reached = 0
    answers = QuotaGate.limits

    async def limits(gate: QuotaGate, ref: TenantRef, *, within_s: float) -> LimitsView:
        nonlocal reached
        reached += 1
        return await answers(gate, ref, within_s=within_s)

    monkeypatch.setattr(QuotaGate, "limits", limits)
    callers, strangers = Authority(tmp_path, "Callers"), Authority(tmp_path, "Strangers")
    bad = [
        None,
        strangers.caller("stranger"),
        callers.caller("too old", timedelta(days=-3)),
        callers.caller("too new", timedelta(days=1)),
        callers.server("a server"),
    ]
    async with serving(make_settings, transport, authority.server(), tls_client_ca=callers.ca) as app:
        codes = [await code_of(app.address, trusting(authority, shown)) for shown in bad]
        assert (codes, reached) == ([grpc.StatusCode.UNAVAILABLE] * len(bad), 0)
        assert await code_of(app.address, trusting(authority, callers.caller("gateway"))) is grpc.StatusCode.OK
        assert reached == 1


@pytest.mark.parametrize("spoilt", ["certificate", "key", "client_ca"])
async def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(
    make_settings: MakeSettings, transport: str, authority: Authority, spoilt: str, tmp_path: Path
) -> None:
    server = authority.server()
    path = {"certificate": server.certificate, "key": server.key, "client_ca": authority.ca}[spoilt]
    path.write_text("no PEM")
    with pytest.raises(StartError, match=path.name):
        async with serving(make_settings, transport, server, tls_client_ca=tmp_path / authority.ca.name):
            pass


async def test_a_key_of_another_certificate_stops_the_start(
    make_settings: MakeSettings, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "Other").caller("other")
    with pytest.raises(StartError, match="cannot be used"):
        async with serving(make_settings, "asgi", Pair(authority.server().certificate, other.key)):
            pass


async def test_health_is_asked_over_tls(
    make_settings: MakeSettings, transport: str, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(make_settings, transport, authority.server()) as app:
        async with aio.secure_channel(app.address, trusting(authority)) as channel:
            await health_turns(channel, health_pb2.HealthCheckResponse.SERVING)
        words = ["health", "--address", app.address, "--tls-ca", str(authority.ca)]
        assert await asyncio.to_thread(cli.main, words) == 0
    assert "SERVING" in capsys.readouterr().out.splitlines()[-1]
