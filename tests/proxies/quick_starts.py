"""Follows the console blocks of a guide as they are written, but for the ports."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.stores import ROOT, free_port
from tests.waiting import wait_until

GUIDES = ROOT / "docs" / "gateways"
_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_BUILDS = ("make ", "python3 -m venv ")  # done before the tests
_ASKS = ("curl ", ".venv/bin/holdgate ")
_WITHIN_S = 60


class Step(NamedTuple):
    """A command, and what the guide shows of its output: `…` is anything; what is not shown may be anything too."""

    command: str
    shown: str

    def is_shown_by(self, output: str) -> bool:
        """Whether the output is as in the guide."""
        pattern = re.escape(self.shown.strip()).replace("…", ".*")
        seen = re.sub(r"[ \r]+$", "", output, flags=re.MULTILINE).strip()
        return not self.shown or re.fullmatch(pattern, seen, re.DOTALL) is not None


def steps_of(text: str) -> list[Step]:
    """All commands of a guide, in order."""
    return [Step(*found) for block in _BLOCK.findall(text) for found in _STEP.findall(block)]


def follow(guide: str, folder: Path, server: str) -> None:
    """Types every command of a guide, with free ports and the server's address in the place of those written.

    Raises AssertionError where something answers otherwise than the guide shows.
    """
    ports = {port: str(free_port()) for port in ("8080", "8081", "9901")} | {"50051": server.rpartition(":")[2]}
    _clone(folder, ports)
    environment = {**os.environ, "HOLDGATE_LISTEN": server, "PYTHONUNBUFFERED": "1", "NO_PROXY": "*"}
    asked = 0
    with ExitStack() as terminals:
        for step in steps_of(_with_ports((GUIDES / guide).read_text(), ports)):
            words = ["/bin/bash", "-c", step.command]
            if step.command.startswith(_ASKS):
                done = subprocess.run(  # noqa: S603  # our own guide's words
                    words, cwd=folder, env=environment, capture_output=True, text=True, timeout=_WITHIN_S, check=True
                )
                assert step.is_shown_by(done.stdout), f"{step.command}\n{done.stdout}"
                asked += 1
            elif not step.command.startswith(_BUILDS):
                port = ports["8081"] if "upstream.py" in step.command else ports["8080"]
                terminals.enter_context(_serving(step, words, folder, environment, int(port)))
    assert asked, f"{guide} asks nothing"


@contextmanager
def _serving(step: Step, words: list[str], folder: Path, environment: Mapping[str, str], port: int) -> Iterator[None]:
    log = folder / f"{port}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(  # noqa: S603  # our own guide's words
            words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: _listens(port), what=step.command, within_s=_WITHIN_S)
            wait_until(lambda: step.is_shown_by(log.read_text()), what=f"{step.command}: what is shown")
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _clone(folder: Path, ports: Mapping[str, str]) -> None:
    """A folder like this one, the guides' files with other ports."""
    for path in ROOT.iterdir():
        if path.name != "docs":
            (folder / path.name).symlink_to(path)
    copies = folder / "docs" / "gateways"
    copies.mkdir(parents=True)
    for path in GUIDES.iterdir():
        if path.is_file():
            (copies / path.name).write_text(_with_ports(path.read_text(), ports))


def _with_ports(text: str, ports: Mapping[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[0]], text)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
