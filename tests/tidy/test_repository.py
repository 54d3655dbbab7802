"""House rules that no linter knows.

A rule is a function of the repository's folder that lists what breaks it, one line each. Every rule is run on
this repository, which keeps it, and on a small broken one, where it must name the file.
"""

import ast
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST_FILE_LINES = 450
NOT_OURS = {"gen", "build", "dist", "node_modules", "target", "__pycache__"}
IMPURE = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}

EXEMPTION = re.compile(r"#\s*(?:ruff:|mypy:|noqa|type:\s*ignore|pragma:)")
REASONED_EXEMPTION = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+?|type: ignore\[[\w, -]+\]|pragma: no cover)\s+#\s*\w+")
SETTING = re.compile(r'\s*(?:"(?:[A-Z]+[0-9]*|ignore:.*)",|(?:ignore_\w+|follow_untyped_imports) = true)')
LUA_HEADER = re.compile(r"--\[\[.*?\]\]|(?:--[^\n]*\n)+", re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/")


def exemptions_without_reason(root: Path) -> Iterator[str]:
    """Lines that silence ruff, mypy or a warning and do not say why."""
    for path in files(root, ".py"):
        with path.open("rb") as source:
            for token in tokenize.tokenize(source.readline):
                is_exemption = token.type == tokenize.COMMENT and EXEMPTION.match(token.string)
                if is_exemption and not REASONED_EXEMPTION.match(token.string):
                    yield f"{path.relative_to(root)}:{token.start[0]}: {token.string}"
    for number, line in enumerate((root / "pyproject.toml").read_text().splitlines(), 1):
        if SETTING.match(line) and "#" not in line:
            yield f"pyproject.toml:{number}: {line.strip()}"


def large_files(root: Path) -> Iterator[str]:
    """Modules and scripts that have outgrown one concern."""
    for path in files(root / "server", ".py", ".lua"):
        lines = len(path.read_text().splitlines())
        if lines > LARGEST_FILE_LINES:
            yield f"{path.relative_to(root)} has {lines} lines; at most {LARGEST_FILE_LINES} are allowed"


def machine_paths(root: Path) -> Iterator[str]:
    """Paths that exist on one person's machine only; in the server, the temporary folder spelt out."""
    for path in files(root):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # not a text
        inside_server = path.is_relative_to(root / "server")
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or (inside_server and "/tmp" in line):  # noqa: S108  # looked for, not used
                yield f"{path.relative_to(root)}:{number}: {line.strip()}"


def scripts_without_contract(root: Path) -> Iterator[str]:
    """Scripts that do not begin with ``#!lua`` and a comment naming keys, arguments and reply."""
    for path in sorted((root / "server/engine/lua").glob("*.lua")):
        first, _, rest = path.read_text().partition("\n")
        if not first.startswith("#!lua"):
            yield f"{path.relative_to(root)} does not begin with #!lua"
        header = LUA_HEADER.match(rest)
        for word in ("Keys", "Args", "Reply"):
            if header is None or not re.search(rf"^(?:--)?\s*{word}\b", header[0], re.MULTILINE):
                yield f"{path.relative_to(root)} has no line for its {word} in a comment at the top"


def impure_domain(root: Path) -> Iterator[str]:
    """Imports of the domain that reach beyond itself and the standard library, or to a clock or I/O."""
    for path in files(root / "server/domain", ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=aliases, lineno=line):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(name), lineno=line):
                    names = [name]
                case _:
                    continue
            for name in names:
                top = name.partition(".")[0]
                is_ours = f"{name}.".startswith("server.domain.")
                if not is_ours and (top in IMPURE or top not in sys.stdlib_module_names):
                    yield f"{path.relative_to(root)}:{line}: imports {name}"


def files(root: Path, *suffixes: str) -> Iterator[Path]:
    """Files written by hand below the folder, with one of the suffixes (all, when none is given)."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name not in NOT_OURS and (name == ".ci" or name[0] != ".")
        )
        yield from (
            Path(folder, name)
            for name in sorted(names)
            if name.endswith(suffixes or ("",)) and name != ".git"  # in a second working tree that is a file
        )


Rule = Callable[[Path], Iterator[str]]

BREACHES: list[tuple[Rule, str, str]] = [
    (exemptions_without_reason, "server/a.py", "import os  # noqa: F401\n"),
    (exemptions_without_reason, "tests/a.py", "a = b  # type: ignore[name-defined]\n"),
    (exemptions_without_reason, "tools/a.py", "# ruff: noqa\n"),
    (exemptions_without_reason, "pyproject.toml", 'ignore = [\n    "D105",\n]\n'),
    (exemptions_without_reason, "pyproject.toml", "ignore_errors = true\n"),
    (large_files, "server/engine/a.py", "x = 1\n" * (LARGEST_FILE_LINES + 1)),
    (large_files, "server/engine/lua/include/a.lua", "-- x\n" * (LARGEST_FILE_LINES + 1)),
    (machine_paths, "docs/a.md", "see `/" + "work/here`\n"),
    (machine_paths, ".ci/run", "cd /" + "root/here\n"),
    (machine_paths, "server/a.py", 'FOLDER = "/' + 'tmp"\n'),
    (scripts_without_contract, "server/engine/lua/a.lua", "-- Keys 1\n-- Args 1\n-- Reply 1\n"),
    (scripts_without_contract, "server/engine/lua/a.lua", "#!lua\n--[[ A script.\nKeys 1\nArgs 1 ]]\n"),
    (scripts_without_contract, "server/engine/lua/a.lua", "#!lua\nlocal x --[[ Keys\nArgs\nReply ]]\n"),
    (impure_domain, "server/domain/a.py", "import redis.asyncio\n"),
    (impure_domain, "server/domain/a.py", "from server.engine import keys\n"),
    (impure_domain, "server/domain/limits/a.py", "def now():\n    import time\n"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in BREACHES))
def test_this_repository_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(ROOT)) == []


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_a_breach_of_the_rule_is_named(rule: Rule, path: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)

    (complaint, *_) = rule(tmp_path)

    assert complaint.startswith(path)
