"""How the commands reach a server: what of their flags cannot be used, and what is said when nobody answers."""

import asyncio
from pathlib import Path

import pytest

from server import cli
from server.bootstrap import App
from tests.certificates import Authority
from tests.rpc.processes import holdgate
from tests.stores import free_port

EVERY = (
    ["usage", "acme"],
    ["holds", "acme"],
    ["release", "acme", "r-1"],
    ["reset", "acme", "rpm", "--reason", "x", "--yes"],
    ["adjust", "acme", "rpm", "--reason", "x", "--add", "1"],
    ["delete", "acme", "--reason", "x", "--yes"],
    ["audit", "acme"],
    ["ledger", "acme"],
    ["reconcile", "acme"],
    ["health"],
)


async def ran(*words: str) -> int:
    return await asyncio.to_thread(cli.main, words)


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command[0])
def test_authorities_that_cannot_be_read_are_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--tls-ca", "nowhere.pem"]) == cli.UNUSABLE
    assert capsys.readouterr().err == "holdgate: TLS: nowhere.pem cannot be used: No such file or directory\n"


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command[0])
def test_an_address_without_a_port_is_no_address(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--address", "localhost"]) == cli.UNUSABLE
    assert "expected host:port, such as 127.0.0.1:50051, not 'localhost'" in capsys.readouterr().err


def test_files_of_no_use_are_told_before_grpc_sees_them(tmp_path: Path) -> None:
    """In a process of its own: for a certificate without its key, grpc would end the process."""
    authority, other = Authority(tmp_path, "One"), Authority(tmp_path, "Another").caller("other")
    caller = authority.caller("gateway")
    text = tmp_path / "text.pem"
    text.write_text("no PEM")
    over_tls = ("--tls-ca", str(authority.ca))
    said = {
        ("--tls-ca", str(text)): f"TLS: {text} cannot be used: it has no certificate of an authority as PEM",
        (*over_tls, "--tls-cert", str(caller.certificate)): "needs both --tls-cert and --tls-key",
        ("--tls-cert", str(caller.certificate), "--tls-key", str(caller.key)): "--tls-cert needs --tls-ca",
        (*over_tls, "--tls-cert", str(caller.certificate), "--tls-key", str(other.key)): "another certificate's",
        (*over_tls, "--tls-cert", str(caller.key), "--tls-key", str(caller.key)): "has no certificate as PEM",
        (*over_tls, "--tls-cert", str(caller.certificate), "--tls-key", str(text)): "has no private key as PEM",
    }
    for flags, expected in said.items():
        ended = holdgate("health", *flags)
        assert ended.returncode == cli.UNUSABLE
        (line,) = ended.stderr.splitlines()
        assert expected in line


@pytest.mark.parametrize("token", ["two\nlines", "caf\u00e9"])
def test_a_token_that_no_header_can_have_is_told(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDGATE_TOKEN", token)
    assert cli.main(["usage", "acme"]) == cli.UNUSABLE
    assert "HOLDGATE_TOKEN: expected printable ASCII" in capsys.readouterr().err


def test_where_nobody_answers_it_is_said_what_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert cli.main(["usage", "acme", "--address", address]) == cli.FAILED
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"holdgate: {address}: UNAVAILABLE: ")
    assert second.startswith("holdgate: is a server running there, without TLS")


@pytest.mark.parametrize("units", ["1e3", "99999999999999999999", "9007199254740992", "-9007199254740992", "1.5", ""])
def test_units_that_no_amount_can_be_are_told_before_anything_is_sent(
    units: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["adjust", "acme", "credits", "--reason", "x", f"--add={units}"])
    assert ended.value.code == cli.UNUSABLE
    assert "is not a whole number of base units of at most 2^53 - 1" in capsys.readouterr().err


async def test_health_of_a_name_that_nobody_tells_of(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran("health", "--address", app.address, "--service", "nothing") == cli.FAILED
    assert "it tells of no 'nothing'; docs/operating.md has the names" in capsys.readouterr().err


async def test_nothing_to_list_is_said(app: App, tenant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr: who reads the list, finds it empty."""
    assert await ran("holds", tenant, "--address", app.address) == cli.OK
    assert capsys.readouterr().err == "holdgate: acme has no open holds\n"
    assert await ran("audit", "nobody", "--address", app.address) == cli.OK
    assert capsys.readouterr().err == "holdgate: nothing was done by hand to nobody\n"
    assert await ran("ledger", tenant, "--address", app.address) == cli.OK
    assert capsys.readouterr().err.startswith("holdgate: acme has no entries: ")


async def test_a_file_that_cannot_be_written_is_named(
    app: App, tenant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ran("ledger", tenant, "--address", app.address, "--export", str(tmp_path)) == cli.FAILED
    expected = f"holdgate: {tmp_path}: cannot be written: Is a directory; what is not in it was not dropped\n"
    assert capsys.readouterr().err == expected
