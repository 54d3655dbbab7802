"""The command line: what each command prints and how it ends."""

import asyncio
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from server import cli
from server.bootstrap import App
from tests.rpc.conftest import POLICY
from tests.rpc.healths import health_turns
from tests.rpc.processes import environment, holdgate, holdgate_command
from tests.stores import ROOT, free_port


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"holdgate {version('holdgate')}\n"


@pytest.mark.parametrize("words", [("version",), ("policy", "schema"), ("policy", "check", str(POLICY))])
def test_whoever_stops_reading_ends_no_command_in_a_traceback(words: tuple[str, ...]) -> None:
    """As in `holdgate policy schema | head -1`."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [*holdgate_command(*words)]
    try:
        ended = subprocess.run(  # noqa: S603  # our own words
            command,
            cwd=ROOT,
            env=environment(),
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=20,
        )
    finally:
        os.close(writes)
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


def test_version_is_a_flag_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"holdgate {version('holdgate')}\n"


def test_a_word_that_is_no_command_is_answered_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["polcy"])
    assert ended.value.code == 2
    assert "argument COMMAND: invalid choice: 'polcy' (choose from 'serve', 'policy'," in capsys.readouterr().err


def test_policies_that_are_nowhere_are_named_with_the_flag_that_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--store", "memory", "--policies", "nowhere"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("holdgate: nowhere: there is no such file or folder")
    assert second == "holdgate: --policies or HOLDGATE_POLICIES names others"


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "serve" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["policy"],
        ["policy", "check"],
        ["policy", "explain"],
        ["policy", "schema"],
        ["store"],
        ["store", "adopt"],
        ["health"],
        ["usage"],
        ["version"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: " + " ".join(["holdgate", *command]) in capsys.readouterr().out


async def test_health_tells_whether_a_server_serves(
    app: App, channel: aio.Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    await health_turns(channel, health_pb2.HealthCheckResponse.SERVING)
    assert await asyncio.to_thread(cli.main, ["health", "--address", app.address]) == 0
    assert capsys.readouterr().out == f"{app.address}: SERVING\n"
    assert await asyncio.to_thread(cli.main, ["health", "--address", app.address, "--service", "nothing"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


async def test_health_of_an_address_for_all_interfaces_asks_this_machine(
    app: App, channel: aio.Channel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await health_turns(channel, health_pb2.HealthCheckResponse.SERVING)
    port = app.address.rpartition(":")[2]
    monkeypatch.setenv("HOLDGATE_LISTEN", f"0.0.0.0:{port}")
    assert await asyncio.to_thread(cli.main, ["health"]) == 0
    assert capsys.readouterr().out == f"0.0.0.0:{port}: SERVING\n"


def test_health_of_nobody_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["health", "--address", f"127.0.0.1:{free_port()}"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


def test_policies_are_checked_and_explained_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "check", str(POLICY)]) == 0
    assert "lab" in capsys.readouterr().out
    request = ["--plan", "pro", "--action", "work", "--scope", "project=p1", "--amount", "credits=5"]
    assert cli.main(["policy", "explain", str(POLICY), *request]) == 0
    assert "rpm" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--amount", "credits"], ["--amount", "credits=-1"], ["--scope", "=x"]])
def test_an_argument_that_is_no_pair_is_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["policy", "explain", str(POLICY), "--action", "work", *words])
    assert ended.value.code == 2
    assert "is not" in capsys.readouterr().err


def test_adopting_a_store_that_is_not_there_is_one_line_of_complaint() -> None:
    ended = holdgate("store", "adopt", "--redis-url", f"redis://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("holdgate: ")
    assert "Traceback" not in ended.stderr


def test_no_store_is_made_in_order_to_be_adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mistyped"
    assert cli.main(["store", "adopt", "--store", "embedded", "--data-dir", str(folder)]) == 1
    assert f"{folder}: there is no such folder, and so no store to adopt" in capsys.readouterr().err
    assert not folder.exists()
