"""Whole runs, with processes of their own."""

import asyncio
import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.conductor import Conductor
from loadtest.progress import PlainProgress
from loadtest.rehearsal import Unusable
from loadtest.target import Unreachable
from tests.loadtest.fake_server import FakeServer, Lies, serving
from tests.loadtest.plans import plan

ROOT = Path(__file__).resolve().parents[2]
MIXED = ("--settle", "8", "--release", "1", "--abandon", "1", "--hold", "1ms..5ms", "--delivered", "0.5..1")


def silent() -> PlainProgress:
    return PlainProgress(Console(file=io.StringIO()))


@pytest.mark.parametrize("pace", [("--callers", "6"), ("--rate", "300")])
async def test_two_processes_load_and_their_books_agree_with_the_server(pace: tuple[str, str]) -> None:
    setup = ("--setup", "--plan", "pro", "--opening", "credits=5000", "--repeats", "0.1")
    words = (*MIXED, *pace, *setup, "--processes", "2", "--tenants", "20", "--duration", "1500ms")
    fake = FakeServer()
    async with serving(fake) as target:
        report = await Conductor(plan(*words, "--warm-up", "200ms", target=target), silent()).run()

    assert report.audit is not None
    assert report.audit.clean
    assert report.audit.tenants == 20
    assert report.counts.granted > 100
    assert report.counts.errors == {}
    assert report.latencies["CheckAndReserve"].count == report.counts.decisions
    assert len(fake.tenants) == 21
    assert 0 < report.busy < 1
    if "--rate" in pace:
        assert report.decisions_per_s == pytest.approx(300, rel=0.2)


async def test_an_interrupt_ends_the_load_and_what_there_is_is_reported() -> None:
    fake = FakeServer()
    async with serving(fake) as target:
        conductor = Conductor(plan("--duration", "1h", "--hold", "1h", "--tenants", "3", target=target), silent())
        running = asyncio.create_task(conductor.run())
        async with asyncio.timeout(20):
            await fake.called("CheckAndReserve", 8)
            conductor.interrupt()
            report = await running

    assert report.audit is not None
    assert report.audit.clean
    assert any("Interrupted" in note for note in report.notes)
    assert fake.calls["Settle"] == report.counts.granted


async def test_a_second_interrupt_gives_up() -> None:
    fake = FakeServer(Lies(always_unavailable=True))
    async with serving(fake) as target:
        conductor = Conductor(plan("--duration", "1h", "--rate", "5", target=target), silent())
        fake.lies.always_unavailable = False
        running = asyncio.create_task(conductor.run())
        async with asyncio.timeout(20):
            await fake.called("CheckAndReserve", 2)
            fake.lies.always_unavailable = True
            conductor.interrupt()
            conductor.interrupt()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_a_mix_that_the_server_does_not_take_fails_before_the_load() -> None:
    fake = FakeServer(Lies(refuses_mix=True))
    async with serving(fake) as target:
        with pytest.raises(Unusable, match="does not take 'work': INVALID_ARGUMENT"):
            await Conductor(plan(target=target), silent()).run()

    assert fake.calls["CheckAndReserve"] == 1


async def test_a_server_that_decides_nothing_counts_as_unreachable() -> None:
    async with serving(FakeServer(Lies(always_unavailable=True))) as target:
        with pytest.raises(Unreachable, match="does not decide"):
            await Conductor(plan(target=target), silent()).run()


async def command(*words: str) -> tuple[int, str, str]:
    """Runs `python -m loadtest`; exit status, output, complaints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtest",
        *words,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode(), complaints.decode()


async def test_the_command_reports_as_text_json_and_a_page(tmp_path: Path) -> None:
    files = ("--json", str(tmp_path / "report.json"), "--html", str(tmp_path / "report.html"))
    async with serving(FakeServer()) as target:
        status, output, complaints = await command(
            "--target",
            target,
            "--request",
            "work credits=1..5",
            "--rate",
            "100",
            "--duration",
            "500ms",
            "--warm-up",
            "0s",
            *files,
        )

    assert status == 0, complaints
    assert "Audit: 0 units off" in output
    assert json.loads((tmp_path / "report.json").read_text())["decisions"] == 50
    assert (tmp_path / "report.html").read_text().count("<svg") == 4


async def test_the_command_fails_when_the_server_is_off_by_one() -> None:
    async with serving(FakeServer(Lies(charged_too_much=1))) as target:
        status, output, _ = await command(
            "--target", target, "--request", "work credits=1", "--count", "1", "--callers", "1", "--warm-up", "0s"
        )

    assert status == 1
    assert "Audit: 1 unit off" in output


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (("--target", "192.0.2.1:50051"), 2, "--i-own-this-target"),
        (("--mix", "nowhere.yaml"), 2, "nowhere.yaml"),
        (("--callers", "some"), 2, "--callers"),
    ],
)
async def test_the_command_says_what_is_wrong_with_its_arguments(
    words: tuple[str, ...], status: int, complaint: str
) -> None:
    found, _, complaints = await command(*words)

    assert found == status
    assert complaint in complaints


async def test_a_target_where_nobody_listens_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.target.REACH_S", 0.3)

    with pytest.raises(Unreachable, match=re.escape("127.0.0.1:1")):
        await Conductor(plan(target="127.0.0.1:1"), silent()).run()
