"""Mixes as people write them: a YAML file, the name of a mix that comes along, or words on the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from loadtest.mix import Mix

SHIPPED: Final = Path(__file__).parent / "mixes"
MAX_FILE_BYTES: Final = 1_048_576


class MixError(Exception):
    """A mix cannot be read; the message has one line for each mistake."""


def shipped() -> list[str]:
    """Names of the mixes that come along."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_mix(name: str, defaults: Mapping[str, object]) -> Mix:
    """The mix of a file, or one that comes along by its name. `defaults` fills in what an entry leaves out."""
    path = Path(name)
    if not path.exists() and name in shipped():
        path = SHIPPED / f"{name}.yaml"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        text = f"{name}: {error.strerror}; give a file, or one of the mixes that come along: {', '.join(shipped())}"
        raise MixError(text) from error
    if len(content) > MAX_FILE_BYTES:
        raise MixError(f"{name}: is larger than 1 MiB")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MixError(f"{name}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise MixError(f"{name}: expected a mapping with 'entries'; see docs/load-testing.md")
    return _checked(name, document, defaults)


def mix_of_words(requests: Sequence[str], defaults: Mapping[str, object]) -> Mix:
    """The mix of `--request` words, such as "chat tokens=100..900 @model=small +v-fast:video_ms=5000 *3"."""
    return _checked("--request", {"entries": [_entry(words) for words in requests]}, defaults)


def _entry(words: str) -> dict[str, Any]:
    action, *rest = words.split() or [""]
    entry: dict[str, Any] = {"action": action, "scope": {}, "amounts": {}, "items": []}
    for word in rest:
        name, equals, value = word[1:].partition("=")
        product, colon, meter = name.partition(":")
        match word[0]:
            case "*" if not equals:
                entry["weight"] = name
            case "@" if equals:
                entry["scope"][name] = value.split(",")
            case "+" if colon and equals:
                entry["items"].append({"product": product, "quantity": {meter: value}})
            case prefix if prefix not in "*@+" and "=" in word:
                name, _, value = word.partition("=")
                entry["amounts"][name] = value
            case _:
                raise MixError(
                    f"--request {words!r}: {word!r} is not understood; write meter=5, meter=5..10, "
                    "@dimension=value, +product:meter=5 or *weight"
                )
    return entry


def _checked(source: str, document: Mapping[str, Any], defaults: Mapping[str, object]) -> Mix:
    entries = document.get("entries")
    if isinstance(entries, list):
        filled = [{**defaults, **entry} if isinstance(entry, dict) else entry for entry in entries]
        document = {**document, "entries": filled}
    try:
        return Mix.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        places = [fault["loc"] for fault in faults]
        # A list all of whose entries are at fault is called too short as well.
        told = [fault for fault in faults if not any(_within(place, fault["loc"]) for place in places)]
        raise MixError("\n".join(_line(source, fault["loc"], fault["msg"]) for fault in told)) from error


def _within(place: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _line(source: str, place: Sequence[str | int], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{source}: {path + ': ' if path else ''}{message.removeprefix('Value error, ')}"
