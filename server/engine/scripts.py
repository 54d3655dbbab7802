"""The Lua scripts: assembled from files and their includes, once, with the digest that EVALSHA wants.

A line `--@include name` stands for `lua/include/name.lua`; a file that several need stands once, where it is first
asked for. A line `local NAME, OTHER = 1, 'text'` names constants, and `local NAME = string.sub(KEYS[…` what stands in a
key: the store gets what they stand for in place of the names, since a local that functions share costs the script time
at every call, and so does a function.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Final

LUA: Final = Path(__file__).parent / "lua"
INCLUDE: Final = "--@include "
CONSTANTS: Final = re.compile(r"^local ([A-Z][A-Z0-9_]*(?:, [A-Z][A-Z0-9_]*)*) = ([-'>:\w, ]+)$", re.MULTILINE)
NAMES_IN_KEYS: Final = re.compile(r"^local ([A-Z][A-Z0-9_]*) = (string\.sub\(KEYS\b.*)$", re.MULTILINE)
SCRIPT_NAMES: Final = (
    "reserve",
    "settle",
    "release",
    "extend",
    "reap",
    "usage",
    "account",
    "find",
    "ticket",
    "renew",
    "audit",
    "trim",
    "repair",
    "deallocate",
    "record",
    "lease",
    "tell",
    "reset",
    "adjust",
    "delete",
)


@dataclass(frozen=True, slots=True)
class Script:
    """One assembled script and its SHA-1 in hex."""

    name: str
    source: bytes
    sha: bytes


def assemble(name: str, folder: Path = LUA) -> str:
    """The text of a script with its includes in place, each once, before what needs it.

    ValueError names an include that is missing or includes itself, and the line that asks for it.
    """
    lines: list[str] = []
    _append(folder / f"{name}.lua", [], set(), lines)
    return "\n".join(lines) + "\n"


def _append(path: Path, within: list[Path], done: set[Path], lines: list[str]) -> None:
    """Adds a file's lines; `within` are the files that are being read, outermost first."""
    folder = path.parent if path.parent.name == "include" else path.parent / "include"
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.startswith(INCLUDE):
            lines.append(line)
            continue
        wanted = folder / f"{line.removeprefix(INCLUDE).strip()}.lua"
        if wanted in [*within, path]:
            raise ValueError(f"{path.name}:{number}: {wanted.name} includes itself")
        if not wanted.is_file():
            raise ValueError(f"{path.name}:{number}: there is no {wanted.name} in {folder.name}/")
        if wanted not in done:
            done.add(wanted)
            _append(wanted, [*within, path], done, lines)


def inline_constants(text: str) -> str:
    """The text with constants in place of their names; the lines that name them are left empty."""
    values: dict[str, str] = {}
    for names, literals in CONSTANTS.findall(text):
        values |= zip(names.split(", "), literals.split(", "), strict=True)
    values |= {name: f"({expression})" for name, expression in NAMES_IN_KEYS.findall(text)}
    if not values:
        return text
    named = re.compile(rf"\b({'|'.join(values)})\b")
    return named.sub(lambda found: values[found[0]], NAMES_IN_KEYS.sub("", CONSTANTS.sub("", text)))


@cache
def script(name: str) -> Script:
    """The script of that name, ready to send."""
    source = inline_constants(assemble(name)).encode()
    return Script(name, source, sha1(source, usedforsecurity=False).hexdigest().encode())
