"""What is asked: kinds of requests with their weights, and how their holds end."""

from collections.abc import Mapping
from enum import StrEnum
from itertools import accumulate
from random import Random
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from loadtest.spreads import Share, Units, Wait

UnitsField = Annotated[Units, BeforeValidator(Units.parse)]
ShareField = Annotated[Share, BeforeValidator(Share.parse)]
WaitField = Annotated[Wait, BeforeValidator(Wait.parse)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


Choice = Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
"""One value, or several of which each is as likely."""


class Ending(StrEnum):
    """What a caller does with its hold."""

    SETTLE = "settle"
    RELEASE = "release"
    ABANDON = "abandon"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Item(_Part):
    """One thing to be priced by the policy."""

    product: Name
    quantity: Annotated[Mapping[Name, UnitsField], Field(min_length=1)]


class Ends(_Part):
    """Weights of the three endings; only their ratio counts."""

    settle: Weight = 1.0
    release: Weight = 0.0
    abandon: Weight = 0.0

    @model_validator(mode="after")
    def _some(self) -> "Ends":
        if not self.settle + self.release + self.abandon:
            raise ValueError("all weights are 0; give settle, release or abandon one")
        return self

    def draw(self, chance: Random) -> Ending:
        """One ending."""
        point = chance.random() * (self.settle + self.release + self.abandon)
        if point < self.settle:
            return Ending.SETTLE
        return Ending.RELEASE if point < self.settle + self.release else Ending.ABANDON


class Entry(_Part):
    """One kind of request. `ends`, `hold` and `delivered` are those of the command line where they are left out."""

    action: Name
    weight: Weight = 1.0
    scope: Mapping[Name, Choice] = Field(default_factory=dict)
    amounts: Mapping[Name, UnitsField] = Field(default_factory=dict)
    items: tuple[Item, ...] = ()
    ends: Ends = Ends()
    hold: WaitField = Wait(0.0, 0.0)
    delivered: ShareField = Share(1.0, 1.0)


class Accounts(_Part):
    """What set-up gives each tenant."""

    plan: Name
    opening: Mapping[Name, Annotated[int, Field(ge=0, le=2**53 - 1)]] = Field(default_factory=dict)
    overrides: Mapping[Name, Annotated[int, Field(ge=0, le=2**53 - 1)]] = Field(default_factory=dict)
    flags: Mapping[Name, bool] = Field(default_factory=dict)


class Mix(_Part):
    """Everything that is asked in one run, of one policy (empty: the server's only one)."""

    policy: str = ""
    accounts: Accounts | None = None
    entries: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _weighty(self) -> "Mix":
        if not any(entry.weight for entry in self.entries):
            raise ValueError("all entries have weight 0; give one of them a weight")
        return self

    def cumulative_weights(self) -> tuple[float, ...]:
        """The weights added up, entry by entry."""
        return tuple(accumulate(entry.weight for entry in self.entries))
