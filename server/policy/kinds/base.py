"""The keys that limits of every kind have, and what each kind adds."""

from abc import ABC, abstractmethod
from base64 import b32encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, Literal, TypedDict

from pydantic import Field

from server.domain.limits.base import Kind, Limit, Posture
from server.domain.policy import Unit
from server.domain.templates import Template
from server.policy.context import Context
from server.policy.document import Path, shown
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
    posture: Posture | None


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

    def codes(self) -> tuple[str, ...]:
        """The codes that it may refuse with."""
        return (self.refuse,)

    @abstractmethod
    def fills(self, context: Context) -> Fills:
        """The template fields that a refusal by this limit can fill, beside those of every refusal."""

    def dimensions(self) -> frozenset[str]:
        """The dimensions that every request has which this limit can refuse."""
        return frozenset(self.when) - {_ACTION}

    def _label(self, context: Context, path: Path) -> str:
        """The name in messages; its fields are dimensions that separate the limit's cells."""
        label = self.label or self.id
        try:
            unknown = sorted(Template.parse(label).fields - set(getattr(self, "scope", ())))
        except ValueError as error:
            context.reject(path, str(error))
            return label
        if unknown:
            context.reject(path, f"{{{unknown[0]}}} is no dimension of the limit's scope; a label names no others")
        return label

    def rule(self, context: Context, path: Path) -> Rule:
        """What all kinds share, compiled."""
        context.expect_known((*path, "when"), self.when, {*context.dimensions, _ACTION}, "dimension")
        actions = self.when.get(_ACTION)
        if actions is not None:
            context.expect_known((*path, "when", _ACTION), actions, context.actions, "action")
        return Rule(
            id=self.id,
            label=self._label(context, (*path, "label")),
            refuse=self.refuse,
            actions=None if actions is None else frozenset(actions),
            when={name: frozenset(allowed) for name, allowed in self.when.items() if name != _ACTION},
            shadow=self.shadow,
            unless=self.unless or "",
            posture=None,
        )


class StatefulModel(LimitModel, ABC):
    """A limit that counts. For an action in `room` it only looks whether so much would fit, and takes nothing.

    `posture` says what becomes of it while the store is gone.
    """

    room: dict[Name, Amount] = Field(default_factory=dict)
    posture: Literal["open", "closed"] | None = None

    def rule(self, context: Context, path: Path) -> Rule:
        """As above, with the posture."""
        rule = super().rule(context, path)
        if self.posture is None:
            return rule
        return {**rule, "posture": Posture(self.posture)}

    def room_in(self, context: Context, path: Path, unit: Unit) -> dict[str, int]:
        """The room that is asked for, by action, in base units."""
        self.expect_actions(context, (*path, "room"), self.room)
        return {action: context.positive((*path, "room", action), room, unit) for action, room in self.room.items()}

    def expect_actions(self, context: Context, path: Path, actions: Iterable[str]) -> None:
        """Notes each action that the limit does not apply to."""
        own = sorted(self.when.get(_ACTION, context.actions))
        for action in actions:
            if action not in own:
                problem = f"{shown(action)} is no action that this limit is for; it is for {', '.join(own)}"
                context.reject(path, problem)


class ScopedModel(StatefulModel, ABC):
    """A limit whose state is kept apart by dimensions of the request.

    Requests must name them, but for actions in `optional_for`, which otherwise do not fall under the limit.
    """

    scope: list[FieldName] = Field(default_factory=list)
    optional_for: list[Name] = Field(default_factory=list)

    def dimensions(self) -> frozenset[str]:
        """As above; a limit with a scope needs its dimensions."""
        return super().dimensions() | frozenset(self.scope)

    def optional_actions(self, context: Context, path: Path) -> frozenset[str]:
        """The actions that need not name the scope's dimensions."""
        self.expect_actions(context, (*path, "optional_for"), self.optional_for)
        if self.optional_for and not self.scope:
            context.reject((*path, "optional_for"), "there is no scope to leave out; remove it, or say the scope")
        return frozenset(self.optional_for)

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
