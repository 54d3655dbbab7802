"""Which template fields an answer can fill, and with what: the other half of what `domain/decision.py` fills in."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from server.domain.policy import Unit
from server.domain.templates import Field, Format, Template


class Value(Enum):
    """What a template field holds."""

    TEXT = "text"
    NUMBER = "a number"
    DURATION = "a duration"
    MONEY = "money"
    TIME = "a time"
    FLAG = "true or false"


Fills = Mapping[str, Value]
"""Field name to what it holds."""

OF_UNIT: Final[Mapping[Unit, Value]] = MappingProxyType(
    {
        Unit.COUNT: Value.NUMBER,
        Unit.DURATION: Value.DURATION,
        Unit.MONEY: Value.MONEY,
    }
)
"""What a field with an amount of a meter holds."""

GRANT: Final[Fills] = MappingProxyType({"plan": Value.TEXT})
"""Known of every answer."""

REFUSAL: Final[Fills] = MappingProxyType(
    {
        **dict.fromkeys(("plan", "tenant", "action", "code", "limit_name", "limit_id"), Value.TEXT),
        "http": Value.NUMBER,
    }
)
"""Known of every refusal, for its message and fields."""

ENVELOPE: Final[Fills] = MappingProxyType(
    {
        **dict.fromkeys(("plan", "code", "message"), Value.TEXT),
        "http": Value.NUMBER,
        "retryable": Value.FLAG,
    }
)
"""Known once a refusal's own texts are made; other figures reach a body as the refusal's fields."""

TYPE: Final[Fills] = MappingProxyType({"type": Value.TEXT})
"""Known where the envelope has a type for the refusal's status."""

WINDOWS: Final[Fills] = MappingProxyType(dict.fromkeys(("rate_limit", "rate_remaining", "rate_reset"), Value.NUMBER))
"""Known where the policy has windows: the tightest one's figures."""

RETRY_AFTER: Final[Fills] = MappingProxyType({"retry_after": Value.NUMBER})
"""Known of a retryable refusal whose limit can say how long."""

GATE: Final[Fills] = MappingProxyType({"requested": Value.TEXT, "allowed": Value.TEXT})
"""Known of a gate on a dimension: what was asked for and the highest that the plan allows."""

TIER: Final[Fills] = MappingProxyType({"tier": Value.NUMBER})
"""Known where the policy has tiers: the account's place on the ladder, from 0."""

QUEUE: Final[Fills] = MappingProxyType(dict.fromkeys(("queued", "queue_limit"), Value.NUMBER))
"""Known of a pool with a queue: how many wait, and how many may."""

CYCLE: Final[Fills] = MappingProxyType({"reset_at": Value.TIME})
"""Known of a quota: when its cycle ends."""

_FIGURES: Final = ("limit", "used", "held", "remaining", "needed", "have")
RESERVED: Final = frozenset(
    {*REFUSAL, *ENVELOPE, *TYPE, *WINDOWS, *TIER, *QUEUE, *RETRY_AFTER, *GATE, *CYCLE, *_FIGURES, "meter"}
)
"""Names that no dimension may have."""

_ACCEPTED: Final[Mapping[Format, frozenset[Value]]] = MappingProxyType(
    {
        Format.AS_IS: frozenset(Value),
        Format.INT: frozenset({Value.NUMBER, Value.DURATION, Value.MONEY}),
        Format.USD: frozenset({Value.MONEY}),
        Format.SEC: frozenset({Value.DURATION}),
        Format.DATE: frozenset({Value.TIME}),
        Format.TIME: frozenset({Value.TIME}),
    }
)


def amounts(unit: Unit) -> dict[str, Value]:
    """The fields of a limit on a meter of this unit."""
    return {"meter": Value.TEXT, **dict.fromkeys(_FIGURES, OF_UNIT[unit])}


def misfit(template: Template, fills: Fills) -> str | None:
    """What is wrong with the first field that `fills` cannot fill, or None if all can be."""
    for part in template.parts:
        if isinstance(part, Field) and (problem := _field_misfit(part, fills)):
            return problem
    return None


def _field_misfit(field: Field, fills: Fills) -> str | None:
    if field.name not in fills:
        return f"nothing fills {{{field.name}}} here; there are {', '.join(sorted(fills))}"
    holds = fills[field.name]
    if holds in _ACCEPTED[field.format]:
        return None
    fitting = [form.value for form, accepted in _ACCEPTED.items() if form and holds in accepted]
    expected = f"expected {{{field.name}}}" + "".join(f" or {{{field.name}:{form}}}" for form in fitting)
    return f"{{{field.name}:{field.format}}}: {field.name} is {holds.value} here; {expected}"
