"""Writes gen/ from protos/: messages, services and their type stubs.

With ``--check`` it writes nothing and exits 1 where gen/ differs from that, naming each file.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "gen"


def main() -> int:
    """Regenerates, or checks for drift. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where gen/ is out of date")
    check = parser.parse_args().check

    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        generate(fresh)
        if not check:
            shutil.rmtree(GENERATED, ignore_errors=True)
            shutil.copytree(fresh, GENERATED)
            return 0
        stale = drift(fresh, GENERATED)
    for path in stale:
        print(f"gen/{path} is not what protos/ says; run: make gen")
    return 1 if stale else 0


def generate(out: Path) -> None:
    """Runs the compiler that ships with grpcio-tools on every proto, into ``out``."""
    plugins = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={Path(protoc.__file__).parent / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet,readable_stubs:{out}",
            # The server is asyncio only, so a servicer's methods are typed as coroutines and nothing else.
            f"--mypy_grpc_out=quiet,readable_stubs,only_async:{out}",
            *(str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))),
        ]
    )
    if status:
        sys.exit(f"protoc failed on protos/ (exit status {status}); its message stands above")


def drift(fresh: Path, committed: Path) -> list[Path]:
    """The files, relative to both folders, that only one of them has or that differ."""
    paths = {
        path.relative_to(folder)
        for folder in (fresh, committed)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(path for path in paths if content(fresh / path) != content(committed / path))


def content(path: Path) -> bytes | None:
    """What the file holds; None where there is no such file."""
    return path.read_bytes() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
