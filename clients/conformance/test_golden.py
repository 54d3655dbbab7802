"""Every client plays every transcript against every kind of server, and all of them read the same answers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.conformance.programs import PROGRAMS, TRANSCRIPTS, Certificates, with_clients

PLAYING_S = 60


def played(language: str, address: str, flags: list[str]) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """The player's end, and the answers that it read, without the name of its run."""
    run = f"{language}-{address.rpartition(':')[2]}"
    words = [*PROGRAMS[language]["golden"], address, run, *flags, *map(str, TRANSCRIPTS)]
    done = subprocess.run(  # noqa: S603  # our own words
        words, env=with_clients(), capture_output=True, text=True, timeout=PLAYING_S, check=False
    )
    lines = [line.replace(run, "<run>") for line in done.stdout.splitlines() if line.startswith("{")]
    return done, [json.loads(line, object_hook=_readable) for line in lines]


def _readable(part: dict[str, Any]) -> dict[str, Any]:
    """Without bytes that have the run's name within them: an operation's details in a batch."""
    return {name: value for name, value in part.items() if name != "details" or not isinstance(value, str)}


def test_every_language_passes_and_reads_the_same(served: tuple[str, str], certificates: Certificates) -> None:
    address, security = served
    told: dict[str, list[Any]] = {}
    for language in PROGRAMS:
        done, told[language] = played(language, address, certificates.of_client(security))
        assert done.returncode == 0, f"{language}: {done.stderr}"
        assert told[language], f"{language} played nothing"
    for language, answers in told.items():
        for answer, of_python in zip(answers, told["python"], strict=True):
            assert answer == of_python, language


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_player_fails_where_an_answer_differs(
    language: str, served: tuple[str, str], certificates: Certificates, tmp_path: Path
) -> None:
    address, security = served
    wrong = tmp_path / "99-wrong.yaml"
    wrong.write_text(
        "- {call: quota.v1.TestClockService/SetTime, request: {nowMs: 1}, answer: {}}\n"
        "- {call: quota.v1.QuotaService/GetUsage, request: {tenant: t}, answer: {limits: [{id: rpm, limit: 4}]}}\n"
        "- {call: quota.v1.QuotaService/GetUsage, request: {}, error: {code: NOT_FOUND}}\n"
    )
    words = [*PROGRAMS[language]["golden"], address, "wrong", *certificates.of_client(security), str(wrong)]
    done = subprocess.run(  # noqa: S603  # our own words
        words, env=with_clients(), capture_output=True, text=True, timeout=PLAYING_S, check=False
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 passed, 2 failed"
    assert len(done.stderr.strip().splitlines()) == 2


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 7
