"""Every row of `rows.yaml` leads to a test that is there, or says why Holdgate cannot have the bug."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.stores import ROOT

ROWS: Final[list[dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("rows.yaml").read_text())
FOLDERS: Final = ("tests", "clients/python/tests")
LEAST_ROWS: Final = 100
LEAST_REASON: Final = 20


def functions_in(folder: str) -> Iterator[str]:
    """Each test function as `file::function`."""
    for path in sorted((ROOT / folder).rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(ROOT)}::{node.name}"


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {test for folder in FOLDERS for test in functions_in(folder)}


def test_every_row_has_its_test_or_its_reason(known: set[str]) -> None:
    names = {test.partition("::")[2] for test in known}
    odd = []
    for row in ROWS:
        kept = row["row"] in names
        odd += [f"{row['row']}: {also} is not there" for also in row.get("also", ()) if also not in known]
        if row.keys() - {"also"} == {"row"}:
            odd += [] if kept else [f"{row['row']}: there is no test of this name"]
        elif row.keys() - {"also"} == {"row", "is"}:
            odd += [] if row["is"] in known and not kept else [f"{row['row']}: {row['is']} is not there, or its own is"]
        elif row.keys() == {"row", "not"}:
            odd += [] if len(row["not"]) > LEAST_REASON else [f"{row['row']}: that is no reason"]
        else:
            odd.append(f"{row['row']}: what is {sorted(row)}?")
    assert odd == []


def test_every_row_stands_once() -> None:
    names = [row["row"] for row in ROWS]
    assert len(set(names)) == len(names) >= LEAST_ROWS
    assert all(re.fullmatch(r"test_[a-z_]+", name) for name in names)


def test_every_promise_about_faults_has_its_test(known: set[str]) -> None:
    promises = yaml.safe_load((ROOT / "tests" / "faults" / "promises.yaml").read_text())
    assert [row["test"] for row in promises if row["test"] not in known] == []
