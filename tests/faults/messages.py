"""Messages that no client would send: of every request type, with values at every edge, and their bytes mutated."""

from collections.abc import Iterator
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

EDGES: Final = (0, 1, 2, -1, 7, 127, 128, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1)
TEXTS: Final = (
    "",
    "acme",
    "r-1",
    "work",
    "quickstart",
    "lab",
    "credits",
    "requests",
    "a b",
    "{}",
    "hg:{x}:cells",
    "é\u0000",
    "x" * 129,
    "%s%n",
    "-1",
    "../..",
)
DEPTH: Final = 4


def filled(message: Message, random: Random, depth: int = 0) -> Message:
    """Puts something into some of the fields."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4 + 0.1 * depth:
            continue
        try:
            _fill(message, field, random, depth)
        except (ValueError, TypeError):
            continue  # what protobuf itself would never send, such as a number above its type's
    return message


def _fill(message: Message, field: Any, random: Random, depth: int) -> None:  # noqa: ANN401  # a descriptor
    value = getattr(message, field.name)
    inner = field.message_type
    if inner is not None and depth == DEPTH:
        return
    if inner is not None and inner.GetOptions().map_entry:
        _fill_map(value, inner, random, depth)
    elif field.is_repeated:
        for _ in range(random.randint(1, 3)):
            value.append(_scalar(field, random)) if inner is None else filled(value.add(), random, depth + 1)
    elif inner is None:
        setattr(message, field.name, _scalar(field, random))
    else:
        value.SetInParent()
        filled(value, random, depth + 1)


def _fill_map(value: Any, entry: Any, random: Random, depth: int) -> None:  # noqa: ANN401  # a map and its descriptor
    fields = entry.fields_by_name
    for _ in range(random.randint(1, 3)):
        key = _scalar(fields["key"], random)
        if fields["value"].message_type is None:
            value[key] = _scalar(fields["value"], random)
        else:
            filled(value[key], random, depth + 1)


def _scalar(field: Any, random: Random) -> Any:  # noqa: ANN401  # a descriptor, a value of its type
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = random.choice(TEXTS)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return random.choice((0, 1, 2, 3, 99))
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return random.choice((0.0, 0.5, -1.0, float("nan"), float("inf")))
    return random.choice(EDGES)


def mutated(raw: bytes, random: Random) -> bytes:
    """The bytes with some of them changed, cut off, doubled or put in from nowhere."""
    changed = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at : at + random.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + random.randint(1, 40)]
            case _:
                changed[at:at] = random.randbytes(random.randint(1, 6))
    return bytes(changed)


def messages(kind: type[Message], random: Random) -> Iterator[bytes]:
    """Serialized requests of a type, for ever: one in two as it is, the others mutated."""
    while True:
        raw = filled(kind(), random).SerializeToString()
        yield raw
        yield mutated(raw, random)
