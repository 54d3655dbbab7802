"""A YAML file as values that remember where they stand, so that every complaint can name file and line."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9_]*)")
_DECIMAL: Final = re.compile(r"-?[0-9]+\.[0-9]+")
_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}

Data: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"


class ScenarioError(Exception):
    """A scenario file is not written as it must be; the message begins with file and line."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a file; equal values at different places are equal."""

    data: Data
    where: str = field(compare=False, default="made up")
    """File and line, as `file:line`."""
    span: tuple[int, int] = field(compare=False, default=(0, 0))
    """The places in the text between which it is written."""

    def error(self, problem: str) -> ScenarioError:
        return ScenarioError(f"{self.where}: {problem}")

    def mapping(self, what: str, known: Collection[str] = (), required: Collection[str] = ()) -> dict[str, "Value"]:
        """Its entries; raises for a key that is not `known` (when any are named) and for a missing one."""
        if not isinstance(self.data, dict):
            raise self.error(f"{what} must be a mapping, not {self.plain()!r}")
        for key, value in self.data.items():
            if known and key not in known:
                raise value.error(f"{what} has no key {key!r}; it has: {', '.join(sorted(known))}")
        for key in required:
            if key not in self.data:
                raise self.error(f"{what} lacks the key {key!r}")
        return self.data

    def items(self, what: str) -> Sequence["Value"]:
        if not isinstance(self.data, list):
            raise self.error(f"{what} must be a list, not {self.plain()!r}")
        return self.data

    def text(self, what: str) -> str:
        if not isinstance(self.data, str):
            raise self.error(f"{what} must be text, not {self.plain()!r}")
        return self.data

    def whole(self, what: str) -> int:
        if not isinstance(self.data, int) or isinstance(self.data, bool):
            raise self.error(f"{what} must be a whole number, not {self.plain()!r}")
        return self.data

    def made(self, data: Data) -> "Value":
        """Other data that stands for what is written here."""
        return Value(data, self.where)

    def plain(self) -> Any:  # noqa: ANN401  # as JSON: anything
        """The data alone."""
        match self.data:
            case dict() as entries:
                return {key: value.plain() for key, value in entries.items()}
            case list() as values:
                return [value.plain() for value in values]
            case scalar:
                return scalar


def read(text: str, name: str) -> Value:
    """The one document of a text; `name` is what complaints call it."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScenarioError(f"{name}:{line}: not YAML: {error.problem}") from error
    if node is None:
        raise ScenarioError(f"{name}:1: the file is empty")
    return _value(node, name)


def excerpt(text: str, value: Value) -> str:
    """The text in which a value is written, with its lines where they were."""
    start, end = value.span
    line_start = text.rfind("\n", 0, start) + 1
    return "\n" * text.count("\n", 0, start) + " " * (start - line_start) + text[start:end]


def _value(node: yaml.Node, name: str) -> Value:
    where = f"{name}:{node.start_mark.line + 1}"
    span = (node.start_mark.index, node.end_mark.index)
    match node:
        case yaml.MappingNode():
            return Value(_entries(node, name), where, span)
        case yaml.SequenceNode():
            return Value([_value(item, name) for item in node.value], where, span)
        case yaml.ScalarNode():
            return Value(node.value if node.style else _resolved(node.value), where, span)
    raise ScenarioError(f"{where}: {node.tag} is no value")


def _entries(node: yaml.MappingNode, name: str) -> dict[str, Value]:
    entries: dict[str, Value] = {}
    for key_node, value_node in node.value:
        value = _value(value_node, name)
        value = Value(value.data, f"{name}:{key_node.start_mark.line + 1}", value.span)
        if not isinstance(key_node, yaml.ScalarNode):
            raise value.error("a key must be text")
        key: str = key_node.value
        if key in entries:
            raise value.error(f"the key {key!r} stands here twice")
        entries[key] = value
    return entries


def _resolved(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
