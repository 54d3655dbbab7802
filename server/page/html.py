"""HTML as values: text is escaped unless it is known to be HTML, which only this module makes of strings."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Final, TypeAlias

_EMPTY: Final = frozenset({"input", "link", "meta", "rect", "line"})
"""Elements without contents; those of SVG must say so themselves."""


@dataclass(frozen=True, slots=True)
class Html:
    """HTML that is complete and safe to put anywhere between tags."""

    text: str


Content: TypeAlias = Html | str
Attribute: TypeAlias = str | int | bool | None


def tag(name: str, /, *contents: Content | Iterable[Content], **attributes: Attribute) -> Html:
    """An element. `_` in an attribute's name stands for `-`, at its end for nothing (`class_`). None and False leave
    the attribute out; True gives it without a value.
    """
    opening = name + "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in _EMPTY:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{joined(*contents).text}</{name}>")


def joined(*contents: Content | Iterable[Content]) -> Html:
    """Contents one behind the other."""
    parts: list[str] = []
    for content in contents:
        if isinstance(content, Html):
            parts.append(content.text)
        elif isinstance(content, str):
            parts.append(escape(content))
        else:
            parts += [joined(each).text for each in content]
    return Html("".join(parts))


def document(*contents: Html) -> bytes:
    """A whole document."""
    return f"<!doctype html>\n{joined(*contents).text}\n".encode()


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
