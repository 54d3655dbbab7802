"""Texts with fields, such as `Need {needed} credits.`, for messages, bodies and headers.

A field is `{name}` or `{name:format}`; `{{` and `}}` stand for braces. The formats are those of `Format`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_END_OF_DATES_MS: Final = 253_402_300_800_000  # year 10000, which no four-digit date can show
_MICROS_PER_DOLLAR: Final = 1_000_000
_MS_PER_SECOND: Final = 1000


class Format(StrEnum):
    """How a field is written.

    `AS_IS` leaves a number a number and a text a text. `INT` is an integer. `USD` turns millionths of a
    dollar into dollars, `SEC` milliseconds into seconds; both are exact and as short as possible. `DATE` and
    `TIME` turn milliseconds since 1970 into 2026-04-01 and 2026-04-01T00:00:00Z (UTC; `.mmm` if not whole).
    """

    AS_IS = ""
    INT = "int"
    USD = "usd"
    SEC = "sec"
    DATE = "date"
    TIME = "time"


class Field(NamedTuple):
    """A place in a template that a value fills."""

    name: str
    format: Format


@dataclass(frozen=True)
class Template:
    """A parsed text: literal pieces and fields, in order."""

    parts: tuple[str | Field, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Reads a template; raises ValueError that names the bad field or brace."""
        parts: list[str | Field] = []
        literal, end = "", 0
        for token in _TOKEN.finditer(text):
            literal += text[end : token.start()]
            end = token.end()
            if token[0] in {"{{", "}}"}:
                literal += token[0][0]
                continue
            if token[1] is None:
                raise ValueError(f"a single {token[0]!r}; write it twice where a brace is meant")
            if literal:
                parts.append(literal)
            literal = ""
            parts.append(_field(token[1]))
        literal += text[end:]
        return cls((*parts, literal) if literal else tuple(parts))

    @cached_property
    def fields(self) -> frozenset[str]:
        """Names of the values that the template needs."""
        return frozenset(part.name for part in self.parts if isinstance(part, Field))

    def render(self, values: Mapping[str, object]) -> object | None:
        """The template filled in, or None when a field has no value.

        A template that is nothing but one field keeps the value's type, for a JSON body; others give text.
        """
        if len(self.parts) == 1 and isinstance(self.parts[0], Field):
            name, form = self.parts[0]
            value = values.get(name)
            return None if value is None else _typed(value, form)
        return self.text(values)

    def text(self, values: Mapping[str, object]) -> str | None:
        """The template filled in as text, for a sentence or a header, or None when a field has no value."""
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = values.get(part.name)
            piece = None if value is None else _written(value, part.format)
            if piece is None:
                return None
            pieces.append(piece)
        return "".join(pieces)


def _field(inner: str) -> Field:
    name, _, form = inner.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{{{inner}}} is no field; a field is a name in small letters, as in {{needed}}")
    if ":" not in inner:
        return Field(name, Format.AS_IS)
    known = {known.value: known for known in Format if known}
    if form not in known:
        raise ValueError(f"{{{inner}}} has an unknown format; the formats are {', '.join(known)}")
    return Field(name, known[form])


def _typed(value: object, form: Format) -> object | None:
    match form:
        case Format.USD:
            return _quotient(value, _MICROS_PER_DOLLAR)
        case Format.SEC:
            return _quotient(value, _MS_PER_SECOND)
        case Format.DATE | Format.TIME:
            return _moment(value, form)
        case Format.INT:
            return _whole(value)
        case Format.AS_IS:
            return value


def _written(value: object, form: Format) -> str | None:
    match form:
        case Format.USD:
            return _decimal(value, _MICROS_PER_DOLLAR)
        case Format.SEC:
            return _decimal(value, _MS_PER_SECOND)
        case Format.DATE | Format.TIME:
            return _moment(value, form)
        case Format.INT:
            return str(_whole(value))
        case Format.AS_IS:
            return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a number format was given {value!r}")
    return value


def _quotient(value: object, base: int) -> int | float:
    whole, rest = divmod(_whole(value), base)
    return whole if rest == 0 else _whole(value) / base


def _decimal(value: object, base: int) -> str:
    number = _whole(value)
    whole, rest = divmod(abs(number), base)
    digits = len(str(base)) - 1
    fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
    return f"{'-' if number < 0 else ''}{whole}{fraction}"


def _moment(value: object, form: Format) -> str | None:
    at_ms = _whole(value)
    if not 0 <= at_ms < _END_OF_DATES_MS:
        return None
    seconds, rest_ms = divmod(at_ms, _MS_PER_SECOND)
    at = datetime.fromtimestamp(seconds, UTC)
    if form is Format.DATE:
        return at.strftime("%Y-%m-%d")
    fraction = f".{rest_ms:03d}" if rest_ms else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z"
