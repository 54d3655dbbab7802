"""What all parts of a policy's shape are built from: strict models and the ways that values are written."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from server.policy.document import shown

NAME: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
FIELD: Final = r"^[a-z][a-z0-9_]{0,63}$"
PRODUCT: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}$"
HEADER: Final = r"^[A-Za-z][A-Za-z0-9-]{0,63}$"
HASH: Final = r"^[0-9a-f]{64}$"
_TEXT: Final = r"^[^\x00-\x1f\x7f]{1,128}$"

PATTERNS: Final = {
    NAME: "a name: a letter, then letters, digits, '_', '.' or '-', at most 64 in all",
    FIELD: "a name in small letters: a letter, then letters, digits or '_', at most 64 in all",
    PRODUCT: "a name: letters, digits, '_', '.', ':', '/' or '-', at most 64 in all",
    HASH: "a SHA-256 hash: 64 hex digits in small letters",
    HEADER: "a header name: letters, digits or '-', at most 64 in all",
    _TEXT: "text of 1 to 128 characters on one line",
}
"""What each pattern asks for, in words."""

MAX_TEMPLATE: Final = 1000
"""Longest template, in characters."""

Name = Annotated[str, Field(pattern=NAME)]
"""Of limits, meters, plans, actions, flags, codes and rows."""

FieldName = Annotated[str, Field(pattern=FIELD)]
"""Of dimensions and refusal fields: what templates and JSON bodies can name."""

ProductName = Annotated[str, Field(pattern=PRODUCT)]
"""Of priced things, such as `gpt-4o-mini`."""

HeaderName = Annotated[str, Field(pattern=HEADER)]
"""Of HTTP headers."""

Text = Annotated[str, Field(pattern=_TEXT)]
"""A label or a value of a dimension."""

TemplateText = Annotated[str, Field(max_length=MAX_TEMPLATE)]
"""A text with fields."""


def _amount(value: object) -> int | str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("amount", "{value}; expected an amount", {"value": shown(value)})


def _row(value: object) -> dict[str, int | str]:
    if isinstance(value, dict) and all(isinstance(plan, str) for plan in value):
        return {plan: _amount(written) for plan, written in value.items()}
    problem = "{value}; expected an amount for each plan"
    raise PydanticCustomError("row", problem, {"value": shown(value)})


def _plan_amount(value: object) -> int | str | dict[str, int | str]:
    return _row(value) if isinstance(value, dict) else _amount(value)


def _texts(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(text, str) and text for text in texts):
        return tuple(texts)
    raise PydanticCustomError("texts", "{value}; expected text or a list of texts", {"value": shown(value)})


_AMOUNT_SCHEMA: Final[dict[str, Any]] = {"type": ["integer", "number", "string"]}
_ROW_SCHEMA: Final[dict[str, Any]] = {"type": "object", "additionalProperties": _AMOUNT_SCHEMA}
_TEXTS_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}

Amount = Annotated[int | str, PlainValidator(_amount), WithJsonSchema(_AMOUNT_SCHEMA)]
"""An amount as written; `values.amount` reads it once its unit is known."""

Row = Annotated[dict[str, int | str], PlainValidator(_row), WithJsonSchema(_ROW_SCHEMA)]
"""An amount for each plan."""

PlanAmount = Annotated[
    int | str | dict[str, int | str],
    PlainValidator(_plan_amount),
    WithJsonSchema({"anyOf": [_AMOUNT_SCHEMA, _ROW_SCHEMA]}),
]
"""One amount, an amount for each plan, `$row` or `unlimited`."""

Texts = Annotated[tuple[str, ...], PlainValidator(_texts), WithJsonSchema(_TEXTS_SCHEMA)]
"""One text or several."""


class Model(BaseModel):
    """A mapping of the policy with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _note_keys(cls, data: object, info: ValidationInfo) -> object:
        """Notes which keys a mapping may have, for the message about one that it may not."""
        if isinstance(info.context, dict):
            info.context[id(data)] = [field.alias or name for name, field in cls.model_fields.items()]
        return data
