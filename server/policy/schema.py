"""The shape of a policy file, and what is wrong with data that does not have it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from server.domain.policy import Unit
from server.policy.document import Document, Path, shown
from server.policy.kinds import AnyLimit
from server.policy.model import (
    PATTERNS,
    Amount,
    FieldName,
    HeaderName,
    Model,
    Name,
    ProductName,
    Row,
    TemplateText,
    Text,
)

Shape = TypeVar("Shape", bound=Model)
HttpStatus = Annotated[int, Field(ge=200, le=599)]
RefusalStatus = Annotated[int, Field(ge=400, le=599)]
Percent = Annotated[int, Field(ge=0, le=100)]


class MeterModel(Model):
    """A countable thing: how its amounts are written, and how many each request counts by itself.

    A `sampled` meter is reported by RecordUsage: seconds of something that has a size (`runtime`) or sizes (`level`),
    for slots of length `every`, or amounts by id (`amount`). A size counts `worth` units per slot. What is kept is
    read times `times`, divided by `per`: a number, `cycle_seconds` or `cycle_days`.
    """

    unit: Annotated[Unit, Field(strict=False)] = Unit.COUNT
    per_request: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    sampled: Literal["runtime", "level", "amount"] | None = None
    every: Amount | None = None
    worth: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    times: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    per: Annotated[int, Field(ge=1, le=1_000_000_000)] | Literal["cycle_seconds", "cycle_days"] = 1


class BannerModel(Model):
    """What people are shown from some percent of an allowance on."""

    level: Name
    text: Annotated[str, Field(min_length=1, max_length=300)]


class UsageModel(Model):
    """How use is shown: by percent of an allowance, the `bars` of it and the `banners` above the page.

    While it is not `visible`, it is counted and not told. Accounts with the flag `banner_unless` have no banner.
    """

    visible: bool = True
    bars: dict[Percent, Name] = Field(default_factory=dict)
    banners: dict[Percent, BannerModel] = Field(default_factory=dict)
    banner_unless: Name | None = None


class TimedModel(Model):
    """The hold's time is paid: from its first renewal on, for as long as the request asked for of `by`; each renewal
    charges the share of `charge` that has passed, in begun spans of `per`.
    """

    by: Name
    charge: Name
    per: Amount


class HoldModel(Model):
    """How long what an action takes is kept.

    `lease` until a renewal is due, `first` in its place until the first renewal, `longest` to the end that no renewal
    passes, `tombstone` for the record of an ended hold, `replay` for a grant that left nothing to settle.
    """

    lease: Amount | None = None
    longest: Amount | None = None
    tombstone: Amount | None = None
    replay: Amount | None = None
    first: Amount | None = None
    timed: TimedModel | None = None


class UsualModel(Model):
    """What a request is about that names neither items nor amounts."""

    product: ProductName
    quantity: Annotated[dict[Name, Amount], Field(min_length=1)]


class ActionModel(Model):
    """Something that a caller may want to do.

    Nothing under a `free` action costs anything; a `priced` one must say what it produces. `usual` is what a request
    is about that says nothing.
    """

    hold: HoldModel = HoldModel()
    free: bool = False
    priced: bool = False
    usual: UsualModel | None = None


class CatalogEntryModel(Model):
    """A value with its other names, and the dimensions that a request with it has."""

    aliases: list[Text] = Field(default_factory=list)
    scope: dict[FieldName, Text] = Field(default_factory=dict)


class CatalogModel(Model):
    """What the values of the dimension `of` stand for; requests for `closed` actions may name no others."""

    of: FieldName
    closed: list[Name] = Field(default_factory=list)
    values: Annotated[dict[Text, CatalogEntryModel], Field(min_length=1)]


Charge = Annotated[dict[Name, Amount], Field(min_length=1)]
"""Units by meter."""


class PriceModel(Model):
    """`charge` for each begun share of a block; `per` gives a block's size in each meter that may measure it.

    Where the price depends on a dimension or the action, `by` names it and `tiers` has a charge for each value.
    """

    per: Annotated[dict[Name, Amount], Field(min_length=1)]
    charge: Charge | None = None
    by: FieldName | None = None
    tiers: Annotated[dict[Text, Charge], Field(min_length=1)] | None = None


class RefusalModel(Model):
    """What callers are told when the limits with this code refuse."""

    http: RefusalStatus
    retryable: bool = False
    message: TemplateText
    fields: dict[FieldName, TemplateText] = Field(default_factory=dict)


class EnvelopeModel(Model):
    """The HTTP form that this system's clients expect; what has no value is left out.

    `types` by status, `headers` by status with 200 for a grant. In `body` the key "+" with the value `fields`
    stands for the refusal's own fields. `ratelimit` adds the standard's fields, `problem` is the standard's body.
    `rate` names the window that `rate_…` fields tell of, in place of the tightest; grants without it have no headers.
    """

    types: dict[HttpStatus, TemplateText] = Field(default_factory=dict)
    body: dict[str, object] = Field(default_factory=dict)
    headers: dict[HttpStatus, dict[HeaderName, TemplateText]] = Field(default_factory=dict)
    ratelimit: Literal["ietf-10"] | None = None
    problem: Literal["rfc9457"] | None = None
    rate: Name | None = None


class PolicyModel(Model):
    """One system's meters, plans, limits, prices, refusals and envelope."""

    policy: Name
    tenant: FieldName
    scope: list[FieldName] = Field(default_factory=list)
    meters: dict[Name, MeterModel] = Field(default_factory=dict)
    plans: Annotated[list[Name], Field(min_length=1)] | None = None
    tiers: Annotated[dict[Name, Amount], Field(min_length=1)] | None = None
    known: dict[FieldName, Annotated[list[Text], Field(min_length=1)]] = Field(default_factory=dict)
    catalog: CatalogModel | None = None
    totals: dict[Name, Annotated[list[Name], Field(min_length=1)]] = Field(default_factory=dict)
    default_plan: Name | None = None
    values: dict[Name, Row] = Field(default_factory=dict)
    hold: HoldModel = HoldModel()
    actions: Annotated[dict[Name, ActionModel], Field(min_length=1)]
    prices: dict[ProductName, PriceModel] = Field(default_factory=dict)
    limits: list[AnyLimit] = Field(default_factory=list)
    usage: UsageModel = UsageModel()
    refusals: dict[Name, RefusalModel] = Field(default_factory=dict)
    precedence: list[Name] = Field(default_factory=list)
    envelope: EnvelopeModel | None = None


def shaped(document: Document) -> PolicyModel:
    """A policy's data in its shape; raises PolicyRejectedError with every misfit."""
    return fitted(document, PolicyModel)


def fitted(document: Document, shape: type[Shape]) -> Shape:
    """The document's data in this shape; raises PolicyRejectedError with every misfit."""
    keys: dict[int, list[str]] = {}
    try:
        return shape.model_validate(document.data, context=keys)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _reject(document, detail, keys)
    document.raise_if_rejected()
    raise AssertionError("a misfit was noted, so this is never reached")


def _reject(document: Document, detail: ErrorDetails, keys: Mapping[int, list[str]]) -> None:
    path = _path(detail["loc"])
    kind = detail["type"]
    if kind == "missing":
        document.reject(document.known(path), f"{shown(path[-1])} is missing")
    elif kind == "extra_forbidden":
        known = keys.get(id(_parent(document, path)), [])
        document.reject(document.known(path), f"unknown key; expected one of {', '.join(known)}")
    else:
        document.reject(document.known(path), _misfit(detail))


def _path(loc: Path) -> Path:
    """Where an error is in the data: pydantic puts a limit's kind between its place in the list and its keys."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("limits",) else loc


def _parent(document: Document, path: Path) -> object:
    value: Any = document.data
    for step in document.known(path)[:-1]:
        value = value[step]
    return value


_EXPECTED: Final[Mapping[str, str]] = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} entry",
    "too_long": "at most {max_length} entries",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
"""What was expected, by pydantic's kind of error."""


def _misfit(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "union_tag_not_found":
        return "'kind' is missing"
    if kind == "union_tag_invalid":
        return f"kind {shown(context['tag'])}; expected one of {context['expected_tags']}"
    if kind == "string_pattern_mismatch":
        return f"{shown(detail['input'])}; expected {PATTERNS[context['pattern']]}"
    if kind in _EXPECTED:
        return f"{shown(detail['input'])}; expected {_EXPECTED[kind].format(**context)}"
    return detail["msg"]
