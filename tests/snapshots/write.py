"""Writes the snapshots anew: `python -m tests.snapshots.write`. Read the difference before committing it."""

from pathlib import Path
from typing import Final

from server.engine.scripts import SCRIPT_NAMES, assemble

SNAPSHOTS: Final = Path(__file__).parent / "lua"


def write(folder: Path = SNAPSHOTS) -> None:
    """Each script as the store gets it."""
    for stale in folder.glob("*.lua"):
        stale.unlink()
    for name in SCRIPT_NAMES:
        (folder / f"{name}.lua").write_text(assemble(name))


if __name__ == "__main__":
    write()
