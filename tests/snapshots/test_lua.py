"""Scripts are reviewed as the store gets them: a change of an include shows in every script that it reaches."""

from pathlib import Path

import pytest

from server.engine.scripts import SCRIPT_NAMES, assemble
from tests.snapshots.write import SNAPSHOTS, write

HOW = "look at the difference, then write the snapshots with: python -m tests.snapshots.write"


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_script_is_as_it_was_reviewed(name: str) -> None:
    path = SNAPSHOTS / f"{name}.lua"
    assert path.exists(), f"there is no snapshot of {name}; {HOW}"
    assert assemble(name) == path.read_text(), f"{name} has changed; {HOW}"


def test_there_is_no_snapshot_without_a_script() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.lua")} == set(SCRIPT_NAMES), HOW


def test_writing_them_replaces_all(tmp_path: Path) -> None:
    (tmp_path / "gone.lua").touch()

    write(tmp_path)

    assert {path.stem for path in tmp_path.iterdir()} == set(SCRIPT_NAMES)
