"""What a reader must know of the machine that figures come from; nothing by which it could be found."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from server.engine.embedded import find_binary


def description() -> str:
    """Processor, memory, system and versions, in one sentence."""
    words = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603  # our own store
    store = next(word.removeprefix("v=") for word in words if word.startswith("v="))
    packages = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "h2corn", "uvloop", "protobuf"))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {gib:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, Valkey {store}, {packages}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
