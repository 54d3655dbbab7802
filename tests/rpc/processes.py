"""A real `holdgate serve` in a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.settings import ENVIRONMENT_PREFIX
from tests.stores import ROOT

END_S: Final = 20.0
_ADDRESS: Final = re.compile(r"serves on (\S+);")


def holdgate_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "server", *words]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without its settings, and with the sources on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}", **(more or {})}


def holdgate(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(  # noqa: S603  # our own words
        holdgate_command(*words),
        cwd=ROOT,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers at `address`; its log goes to a file."""

    process: subprocess.Popen[str]
    address: str
    log_file: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def log(self) -> str:
        return self.log_file.read_text()

    def exit_status(self) -> int:
        """Waits for the end."""
        return self.process.wait(END_S)


@contextmanager
def server_process(folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """Starts a server on a free port, with its data and its log in `folder`."""
    words = holdgate_command("serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), *flags)
    log_file = folder / "server.log"
    with (
        log_file.open("w") as log,
        subprocess.Popen(  # noqa: S603  # our own words
            words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = _ADDRESS.search(line)
            assert found, f"the server said {line!r} and logged {log_file.read_text()}"
            yield ServerProcess(process, found[1], log_file)
        finally:
            process.kill()
