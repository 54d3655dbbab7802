"""Descriptors of a proxy as one question, or as the end of a hold; see docs/gateways/envoy.md.

All descriptors of a call are views of one request of one tenant: what they say is put together and decided at once, so
that nothing is half taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.operation import Operation, TenantRef
from server.domain.policy import Policy

MAX_DESCRIPTORS: Final = 16
"""Most descriptors in one call."""

_TENANT: Final = "tenant"
_ACTION: Final = "action"
_METER: Final = "meter"
_REQUEST_ID: Final = "q.request_id"
_HOLD_ID: Final = "q.hold_id"
_OP: Final = "q.op"


class Entry(Protocol):
    """A key with its value."""

    @property
    def key(self) -> str:
        """Such as `org`."""

    @property
    def value(self) -> str:
        """Its value in this request."""


class Descriptor(Protocol):
    """The part of a proxy's descriptor that says what it is about."""

    @property
    def entries(self) -> Iterable[Entry]:
        """In the order of the proxy's configuration."""


class Op(StrEnum):
    """What a call is for."""

    TAKE = "take"
    SETTLE = "settle"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class View:
    """What one descriptor is about: dimensions, and a meter or, where it names none, every meter."""

    scope: frozenset[str]
    meter: str


@dataclass(slots=True)
class Question:
    """What the descriptors of one call say together. `amounts` are in the meters' base units."""

    policy: Policy
    tenant: str = ""
    action: str = ""
    request_id: str = ""
    hold_id: str = ""
    ops: set[Op] = field(default_factory=set)
    scope: dict[str, str] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)

    @property
    def ref(self) -> TenantRef:
        """Whose state it is about."""
        return TenantRef(self.policy.name, self.tenant)

    @property
    def op(self) -> Op:
        """What the call is for; usage goes before a release that was sent in case there is none."""
        return next((op for op in (Op.SETTLE, Op.RELEASE) if op in self.ops), Op.TAKE)

    def operation(self, *, check_only: bool = False) -> Operation:
        """The question for the gate."""
        return Operation(
            ref=self.ref,
            action=self.action,
            request_id=self.request_id,
            scope=self.scope,
            amounts=self.amounts,
            check_only=check_only,
        )


def read(policy: Policy, descriptors: Sequence[Descriptor], hits: Sequence[int], *, settled: bool = False) -> Question:
    """The question that the descriptors put; `hits` are the units of each. What is `settled` later is
    asked for by its amount, a single request too.

    Raises InvalidRequestError naming every key that the policy lacks, and everything that two of them say differently.
    """
    if not 1 <= len(descriptors) <= MAX_DESCRIPTORS:
        text = f"has {len(descriptors)} entries; expected from 1 to {MAX_DESCRIPTORS}"
        raise InvalidRequestError.of("descriptors", text)
    question = Question(policy, action=next(iter(policy.actions)) if len(policy.actions) == 1 else "")
    bad: list[FieldViolation] = []
    for index, (descriptor, units) in enumerate(zip(descriptors, hits, strict=True)):
        at = f"descriptors[{index}]"
        entries = {entry.key: entry.value for entry in descriptor.entries}
        if not entries:
            bad.append(FieldViolation(at, "has no entries"))
        bad += _add(question, entries, at)
        bad += _count(question, entries.get(_METER, ""), units, at, counts_itself=units == 1 and not settled)
        question.views.append(View(frozenset(entries) & policy.dimensions, entries.get(_METER, "")))
    if len({Op.TAKE} & question.ops) and question.ops != {Op.TAKE}:
        bad.append(FieldViolation("descriptors", "take something and end a hold; send these in calls of their own"))
    if bad:
        raise InvalidRequestError(bad)
    return question


def _add(question: Question, entries: Mapping[str, str], at: str) -> Iterable[FieldViolation]:
    """Adds what entries say to the question; what cannot be added is told."""
    policy = question.policy
    places = {policy.tenant: "tenant", _TENANT: "tenant", _ACTION: "action"}
    places |= {_REQUEST_ID: "request_id", _HOLD_ID: "hold_id"}
    op = entries.get(_OP, Op.TAKE)
    if op in set(Op):
        question.ops.add(Op(op))
    else:
        yield FieldViolation(f"{at}.{_OP}", f"is {op!r}; expected one of {', '.join(Op)}")
    for key, value in entries.items():
        if (place := places.get(key)) is not None:
            said = getattr(question, place)
            # The action that a policy has alone is only a default.
            if said not in {"", value} and not (key == _ACTION and len(policy.actions) == 1):
                yield FieldViolation(f"{at}.{key}", f"is {value!r}, and {said!r} elsewhere in the call")
            setattr(question, place, value)
        elif key in policy.dimensions:
            if question.scope.setdefault(key, value) != value:
                yield FieldViolation(f"{at}.{key}", f"is {value!r}, and {question.scope[key]!r} elsewhere in the call")
        elif key not in {_METER, _OP}:
            known = sorted({policy.tenant, _ACTION, _METER, *policy.dimensions})
            yield FieldViolation(f"{at}.{key}", f"is not known to policy {policy.name!r}; it knows {', '.join(known)}")


def _count(question: Question, meter: str, units: int, at: str, *, counts_itself: bool) -> Iterable[FieldViolation]:
    """Adds a descriptor's units: of the meter that it names, or of those that count requests by themselves."""
    if meter:
        amounts = {meter: units}
    elif counts_itself or question.ops - {Op.TAKE}:
        return  # one request counts as the policy says, and how a hold ends is said by meter
    else:
        amounts = {name: units * of.per_request for name, of in question.policy.meters.items() if of.per_request}
    for name, amount in amounts.items():
        if question.amounts.setdefault(name, amount) != amount:
            text = f"asks for {amount} of {name}, and {question.amounts[name]} are asked for elsewhere in the call"
            yield FieldViolation(f"{at}.hits_addend", text)
