"""The keys that limits of every kind have, and what each kind adds."""

from abc import ABC, abstractmethod
from base64 import b32encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, TypedDict

from pydantic import Field

from server.domain.limits.base import Kind, Limit
from server.domain.policy import Unit
from server.policy.context import Context
from server.policy.document import Path
from server.policy.fields import Fills
from server.policy.model import Amount, FieldName, Model, Name, Text, Texts

_ACTION: Final = "action"
_CELL_MARK_LENGTH: Final = 3


class Rule(TypedDict):
    """The compiled form of what all kinds share."""

    id: str
    label: str
    refuse: str
    actions: frozenset[str] | None
    when: Mapping[str, frozenset[str]]
    shadow: bool
    unless: str


class LimitModel(Model, ABC):
    """One entry of `limits`.

    `when` restricts it to some actions or values of dimensions, `unless` to accounts without a flag. A limit in
    `shadow` is watched and refuses nobody.
    """

    id: Name
    label: Text | None = None
    when: dict[FieldName, Texts] = Field(default_factory=dict)
    refuse: Name
    shadow: bool = False
    unless: Name | None = None

    @abstractmethod
    def compile(self, context: Context, path: Path) -> Limit:
        """The limit; problems are noted in the context."""

    @abstractmethod
    def fills(self, context: Context) -> Fills:
        """The template fields that a refusal by this limit can fill, beside those of every refusal."""

    def dimensions(self) -> frozenset[str]:
        """The dimensions that every request has which this limit can refuse."""
        return frozenset(self.when) - {_ACTION}

    def rule(self, context: Context, path: Path) -> Rule:
        """What all kinds share, compiled."""
        context.expect_known((*path, "when"), self.when, {*context.dimensions, _ACTION}, "dimension")
        actions = self.when.get(_ACTION)
        if actions is not None:
            context.expect_known((*path, "when", _ACTION), actions, context.actions, "action")
        return Rule(
            id=self.id,
            label=self.label or self.id,
            refuse=self.refuse,
            actions=None if actions is None else frozenset(actions),
            when={name: frozenset(allowed) for name, allowed in self.when.items() if name != _ACTION},
            shadow=self.shadow,
            unless=self.unless or "",
        )


class StatefulModel(LimitModel, ABC):
    """A limit that counts. With `room` it only looks whether so much would fit, and takes nothing."""

    room: Amount | None = None

    def room_in(self, context: Context, path: Path, unit: Unit) -> int | None:
        """The room asked for, in base units."""
        return None if self.room is None else context.positive((*path, "room"), self.room, unit)


class ScopedModel(StatefulModel, ABC):
    """A limit whose state is kept apart by dimensions of the request."""

    scope: list[FieldName] = Field(default_factory=list)

    def dimensions(self) -> frozenset[str]:
        """As above; a limit with a scope needs its dimensions."""
        return super().dimensions() | frozenset(self.scope)

    def scope_order(self, context: Context, path: Path) -> tuple[str, ...]:
        """The scope's dimensions in the one order that cells are named by."""
        context.expect_known((*path, "scope"), self.scope, context.dimensions, "dimension")
        context.expect_once((*path, "scope"), self.scope)
        return tuple(sorted(self.scope))


def cell_name(limit_id: str, kind: Kind, meter: str, scope: tuple[str, ...] = (), window_ms: int = 0) -> str:
    """The name of a limit's state: the id and a mark of all that a counter cannot survive the change of."""
    identity = "\n".join((str(kind.value), meter, *scope, str(window_ms)))
    mark = b32encode(sha256(identity.encode()).digest()).decode().lower()
    return f"{limit_id}~{mark[:_CELL_MARK_LENGTH]}"
