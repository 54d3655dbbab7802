"""Operator knobs: values that a policy takes from the deployment, written `${NAME:-default}`."""

import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.domain.errors import PolicyRejectedError

MAX_SETTINGS_BYTES: Final = 64 * 1024
"""Largest settings file."""

MAX_KNOB_LENGTH: Final = 256
"""Longest value of one knob, in characters."""

# Names are in capitals, so that `${used:usd}` in a message stays a dollar sign and a template field.
_KNOB: Final = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^{}]*))?\}")
_MALFORMED: Final = re.compile(r"\$\{[A-Z]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class KnobSource:
    """Where knobs are looked up: first in the settings file, which an operator edits before a reload, then in
    the environment of the process.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    settings_file: Path | None = None

    def read(self) -> Mapping[str, str]:
        """All values as of now; raises PolicyRejectedError if the settings file cannot be read."""
        if self.settings_file is None:
            return self.environ
        return ChainMap(_settings(self.settings_file), dict(self.environ))


def filled_in(text: str, values: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """`text` with its knobs replaced, and what each of them was.

    An empty value counts as not set. Raises ValueError for a knob that has neither value nor default.
    """
    read: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        value = values.get(name) or default
        if value is None:
            raise ValueError(f"{name} is not set and has no default; set it, or write ${{{name}:-default}}")
        if len(value) > MAX_KNOB_LENGTH or not value.isprintable():
            raise ValueError(f"{name} is no printable text of at most {MAX_KNOB_LENGTH} characters")
        read[name] = value
        return value

    result = _KNOB.sub(replace, text)
    if _MALFORMED.search(_KNOB.sub("", text)):
        raise ValueError("a setting is written ${NAME} or ${NAME:-default}")
    return result, read


def _settings(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SETTINGS_BYTES + 1)
        lines = content.decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PolicyRejectedError(f"{path}: cannot be read: {error}") from error
    if len(content) > MAX_SETTINGS_BYTES:
        raise PolicyRejectedError(f"{path}: larger than {MAX_SETTINGS_BYTES} bytes")
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        if not equals or not _NAME.fullmatch(name):
            raise PolicyRejectedError(f"{path}:{number}: expected NAME=value")
        if name in values:
            raise PolicyRejectedError(f"{path}:{number}: {name} is set twice; keep one line")
        values[name] = value
    return values
