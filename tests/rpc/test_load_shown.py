"""`holdgate load` against a server that wants to see who loads it."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from loadtest.conductor import Conductor
from loadtest.planning import Misused, plan_of
from loadtest.progress import PlainProgress
from loadtest.target import Unreachable
from server.bootstrap import running
from tests.certificates import Authority
from tests.loadtest.plans import arguments
from tests.rpc.conftest import MakeSettings

QUICKSTART: Final = Path(__file__).resolve().parents[2] / "policies" / "quickstart.yaml"
CALLERS: Final = f"""\
callers:
  - name: load
    tokens_sha256: [{sha256(b"of the load").hexdigest()}]
    allow:
      - methods: [quota.v1.QuotaService/*]
        tenants: [load-*]
"""
SHORT: Final = ("--request", "api.call", "--callers", "4", "--tenants", "5", "--warm-up", "0s", "--duration", "300ms")


def silent() -> PlainProgress:
    return PlainProgress(Console(file=io.StringIO()))


@pytest.mark.parametrize("via", ["unary", "batch", "stream"])
@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_server_with_tls_that_tells_callers_apart_is_loaded_and_audited(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, via: str
) -> None:
    authority = Authority(tmp_path)
    own, shown = authority.server(), authority.caller("load")
    callers = tmp_path / "callers.yaml"
    callers.write_text(CALLERS)
    tls = {"tls_cert": own.certificate, "tls_key": own.key, "tls_client_ca": authority.ca, "callers": callers}
    monkeypatch.setenv("HOLDGATE_TOKEN", "of the load")
    async with running(make_settings(policies=(QUICKSTART,), transport=transport, **tls)) as app:
        flags = ("--tls-ca", str(authority.ca), "--tls-cert", str(shown.certificate), "--tls-key", str(shown.key))
        plan = plan_of(arguments("--target", app.address, *flags, "--via", via, *SHORT))
        report = await Conductor(plan, silent()).run()

    assert report.audit is not None
    assert report.audit.clean
    assert report.counts.errors == {}
    assert report.counts.granted > 0
    assert "of the load" not in str(report.facts())


async def test_a_server_with_tls_that_is_loaded_without_says_what_to_try(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.target.REACH_S", 1.0)
    own = Authority(tmp_path).server()
    async with running(make_settings(tls_cert=own.certificate, tls_key=own.key)) as app:
        with pytest.raises(Unreachable, match=r"without TLS \(else say --tls-ca\)"):
            await Conductor(plan_of(arguments("--target", app.address, *SHORT)), silent()).run()


def test_a_certificate_without_its_key_makes_no_plan(tmp_path: Path) -> None:
    shown = Authority(tmp_path).caller("load")

    with pytest.raises(Misused, match="needs both --tls-cert and --tls-key"):
        plan_of(arguments("--tls-cert", str(shown.certificate), *SHORT))
