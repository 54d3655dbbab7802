"""A policy text as plain data that remembers its lines.

The text is a strict subset of YAML: no aliases, anchors, tags or duplicate keys, one document, bounded size,
depth and number of values. Only plain whole numbers, `true`, `false` and `null` are anything but text, so that
`no`, `1e3`, `012` and `1:30` mean what they say.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from server.domain.errors import PolicyRejectedError
from server.policy.knobs import filled_in

MAX_TEXT_BYTES: Final = 1024 * 1024
"""Largest policy text."""

MAX_DEPTH: Final = 24
"""Deepest nesting of lists and mappings."""

MAX_VALUES: Final = 50_000
"""Most values, keys included."""

MAX_REPORTED: Final = 100
"""Most problems that one rejection lists."""

MAX_SHOWN: Final = 60
"""Most characters of a bad value that a message repeats."""

Path = tuple[object, ...]
"""Where a value stands: keys and list positions from the top."""

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9_]{0,18})")
_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9_$/:-]*")


class Document:
    """The data of one policy text, and what was found wrong with it.

    `data` is made of dict, list, str, int, bool and None. `knobs` are the operator knobs that the text read.
    """

    def __init__(self, text: str, source: str, knobs: Mapping[str, str]) -> None:
        """Reads `text`; raises PolicyRejectedError if it is not YAML or breaks a rule of the subset.

        `source` names the text in messages; `knobs` are the values that it may read.
        """
        self.source = source
        self.text = text
        self.knobs: dict[str, str] = {}
        self._lines: dict[Path, int] = {(): 1}
        self._read: dict[Path, dict[str, str]] = {}
        self._problems: list[tuple[int, str]] = []
        self.data = _Reader(self, knobs).read()
        self.raise_if_rejected()

    def place(self, path: Path, line: int) -> None:
        """Remembers the line on which the value at `path` starts."""
        self._lines[path] = line

    def read_knobs(self, path: Path, read: dict[str, str]) -> None:
        """Remembers the knobs that the value at `path` was made from."""
        self._read[path] = read
        self.knobs.update(read)

    def knobs_of(self, path: Path) -> Mapping[str, str]:
        """The knobs that the value at `path` was made from."""
        return self._read.get(path, {})

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it."""
        return self._lines[self.known(path)]

    def known(self, path: Path) -> Path:
        """The part of `path` that exists, leaving out steps that do not."""
        known: Path = ()
        for step in path:
            if (*known, step) in self._lines:
                known = (*known, step)
        return known

    def reject(self, path: Path, problem: str, line: int | None = None) -> None:
        """Notes a problem; `problem` says what is wrong and what was expected."""
        where = f"{_path_text(path)}: " if path else ""
        knobs = "".join(f"; {name} is {shown(value)}" for name, value in self.knobs_of(path).items())
        self._problems.append((line or self.line(path), f"{where}{problem}{knobs}"))

    @property
    def problem_count(self) -> int:
        """How many problems were noted."""
        return len(self._problems)

    def raise_if_rejected(self) -> None:
        """Raises PolicyRejectedError with a line for each problem, in the order of the text."""
        if not self._problems:
            return
        problems = sorted(dict.fromkeys(self._problems), key=lambda problem: problem[0])
        lines = [f"{self.source}:{line}: {problem}" for line, problem in problems[:MAX_REPORTED]]
        if len(problems) > MAX_REPORTED:
            lines.append(f"{self.source}: and {len(problems) - MAX_REPORTED} more")
        raise PolicyRejectedError("\n".join(lines))


def shown(value: object) -> str:
    """A bad value as a message shows it: quoted if text, on one line, not too long."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "nothing"}[value]
    written = repr(value)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}…"


def _path_text(path: Path) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if isinstance(step, str) and _PLAIN_KEY.fullmatch(step) else shown(step)
            text += f".{key}" if text else str(key)
    return text


class _StopError(Exception):
    """Nothing after this point of the text can be understood."""


class _Reader:
    """Builds data from parser events, so that each bound stops the parser before it goes on."""

    def __init__(self, document: Document, knobs: Mapping[str, str]) -> None:
        self._document = document
        self._knobs = knobs
        self._events: Iterator[yaml.Event] = iter(())
        self._values = 0

    def read(self) -> object:
        """The data, or None after a problem that ends the reading."""
        try:
            content = self._document.text.encode("utf-8")
            if len(content) > MAX_TEXT_BYTES:
                self._document.reject((), f"larger than {MAX_TEXT_BYTES} bytes")
                return None
            self._events = yaml.parse(content, Loader=yaml.CSafeLoader)
            return self._only_document()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            quoted = '; between braces or brackets a knob is quoted: "${NAME}"' if self._has_knob(line) else ""
            self._document.reject((), f"not YAML: {error.problem}{quoted}", line)
        except (yaml.YAMLError, UnicodeError) as error:
            self._document.reject((), f"not YAML: {' '.join(str(error).split())}")
        except _StopError:
            return None  # the problem is noted in the document
        return None

    def _has_knob(self, line: int) -> bool:
        return "${" in "".join(self._document.text.splitlines()[line - 1 : line])

    def _only_document(self) -> object:
        data: object = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._stopped((), event, "a second document; a file holds one policy")
            elif isinstance(event, yaml.NodeEvent):
                data = self._value(event, ())
        if documents == 0:
            self._document.reject((), "the text is empty; expected a policy")
        return data

    def _stopped(self, path: Path, event: yaml.Event, problem: str) -> _StopError:
        self._document.reject(path, problem, _line(event))
        return _StopError()

    def _value(self, event: yaml.Event, path: Path) -> object:
        self._admit(event, path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._scalar(event, path)

    def _admit(self, event: yaml.Event, path: Path) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._stopped((), event, f"more than {MAX_VALUES} values")
        if len(path) > MAX_DEPTH:
            raise self._stopped(path[:1], event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise self._stopped(path, event, "an alias; write the value out")
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise self._stopped(path, event, "an anchor or a tag; write the plain value")

    def _mapping(self, path: Path) -> dict[object, object]:
        data: dict[object, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._admit(event, path)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._stopped(path, event, "a key that is a list or a mapping; expected text")
            key = _resolved(event.value) if _is_plain(event) else event.value
            line = _line(event)
            if key in data:
                self._document.reject((*path, key), "the key stands here twice; keep one", line)
            self._document.place((*path, key), line)
            data[key] = self._value(next(self._events), (*path, key))
        return data

    def _sequence(self, path: Path) -> list[object]:
        data: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = (*path, len(data))
            self._document.place(item, _line(event))
            data.append(self._value(event, item))
        return data

    def _scalar(self, event: yaml.Event, path: Path) -> object:
        assert isinstance(event, yaml.ScalarEvent)  # noqa: S101  # the only kind of value that is left
        try:
            text, read = filled_in(event.value, self._knobs)
        except ValueError as error:
            self._document.reject(path, str(error), _line(event))
            return event.value
        if read:
            self._document.read_knobs(path, read)
        value = _resolved(text) if read or _is_plain(event) else text
        if value is None:
            self._document.reject(path, "has no value; give it one, or leave the key out", _line(event))
        return value


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return not event.style


def _resolved(text: str) -> str | int | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text
