"""The clients of all languages as programs, and the servers that they are run against."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.certificates import Authority, Pair
from tests.rpc.processes import ServerProcess, environment, server_process
from tests.stores import ROOT

CLIENTS: Final = ROOT / "clients"
GOLDEN: Final = CLIENTS / "golden"
POLICY: Final = GOLDEN / "policy.yaml"
TRANSCRIPTS: Final = sorted(GOLDEN.glob("[0-9]*.yaml"))
TRANSPORTS: Final = ("asgi", "grpcio")
SECURITY: Final = ("plaintext", "tls", "mutual-tls")


def _java(main: str) -> list[str]:
    classes = f"{CLIENTS / 'java/target/classes'}:{CLIENTS / 'java/target/lib'}/*"
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classes, f"holdgate.{main}"]


PROGRAMS: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "python": {name: [sys.executable, str(CLIENTS / f"python/{name}.py")] for name in ("golden", "gateway")},
    "go": {name: [str(CLIENTS / f"go/bin/{name}")] for name in ("golden", "gateway")},
    "typescript": {name: ["node", str(CLIENTS / f"typescript/dist/src/{name}.js")] for name in ("golden", "gateway")},
    "java": {"golden": _java("Golden"), "gateway": _java("Gateway")},
    "rust": {name: [str(CLIENTS / f"rust/target/debug/{name}")] for name in ("golden", "gateway")},
}
"""By language: how its programs are started."""


@dataclass(frozen=True)
class Certificates:
    """Of one run of the tests: the authority, the server's, and a caller's."""

    authority: Authority
    server: Pair
    caller: Pair

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        authority = Authority(folder)
        return cls(authority, authority.server(), authority.caller("gateway"))

    def of_server(self, security: str) -> list[str]:
        """Flags of a server that is secured so."""
        if security == "plaintext":
            return []
        own = ["--tls-cert", str(self.server.certificate), "--tls-key", str(self.server.key)]
        return own if security == "tls" else [*own, "--tls-client-ca", str(self.authority.ca)]

    def of_client(self, security: str) -> list[str]:
        """Flags of a client of a server that is secured so."""
        if security == "plaintext":
            return []
        trusted = ["--ca", str(self.authority.ca)]
        shown = ["--cert", str(self.caller.certificate), "--key", str(self.caller.key)]
        return trusted if security == "tls" else [*trusted, *shown]


def with_clients(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program, Python's client on its path."""
    found = environment(more)
    return {**found, "PYTHONPATH": f"{CLIENTS / 'python'}:{found['PYTHONPATH']}"}


@contextmanager
def golden_server(folder: Path, *flags: str, policy: Path = POLICY) -> Iterator[ServerProcess]:
    """A server with the transcripts' policy, or another one of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ("--policies", str(policy), "--drain-seconds", "0", "--store-timeout-ms", "10000", *flags)
    with server_process(folder, *words) as server:
        yield server


@contextmanager
def gateway(language: str, holdgate: str, *flags: str) -> Iterator[str]:
    """A language's gateway on a free port; its address."""
    words = [*PROGRAMS[language]["gateway"], "127.0.0.1:0", holdgate, *flags]
    with subprocess.Popen(  # noqa: S603  # our own words
        words, env=with_clients(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("gateway on "), f"the gateway said {line!r}"
            yield line.removeprefix("gateway on ").strip()
        finally:
            process.kill()
