"""What a decision found: each limit with its figures, and the refusal that follows from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from server.domain.limits.base import QUEUES, Kind, Limit, Look
from server.domain.limits.window import Window
from server.domain.plan import Plan
from server.domain.templates import Template


class LimitResult(NamedTuple):
    """One limit with its figures."""

    limit: Limit
    scope: Mapping[str, str]
    amount: int
    look: Look

    @property
    def blocking(self) -> bool:
        """Whether it alone was reason to refuse."""
        return self.look.wait_ms not in {0, QUEUES} and not self.limit.shadow

    @property
    def remaining(self) -> int:
        """Units left, never below 0."""
        return max(self.look.cap - self.look.used, 0)

    @property
    def hopeless(self) -> bool:
        """Whether the request could never fit, however long the caller waits."""
        return self.limit.kind in {Kind.WINDOW, Kind.SLOTS} and self.amount > self.look.cap

    @property
    def code(self) -> str:
        """The refusal's code, were this the blocker that binds."""
        too_large = self.limit.too_large if isinstance(self.limit, Window) and self.hopeless else ""
        return too_large or self.limit.refuse

    @property
    def label(self) -> str:
        """The limit's name in messages, which may name the request's dimensions."""
        label = self.limit.label
        return label if "{" not in label else Template.parse(label).text(self.scope) or label


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not: the binding blocker's code and words, and how long waiting takes if it helps at all."""

    code: str
    http_status: int
    message: str
    retryable: bool
    retry_after_ms: int | None
    estimated: bool
    limit_id: str
    details: Mapping[str, object]


class LimitResults(Sequence[LimitResult]):
    """All limits of a plan with their figures, guards and gates first; each is made when it is asked for.

    `looks` are those of `plan.checks`, in order; empty when they are no longer known, and then there are no results.
    """

    __slots__ = ("_made", "looks", "plan")

    def __init__(self, plan: Plan, looks: Sequence[Look]) -> None:
        self.plan = plan
        self.looks = looks
        self._made: tuple[LimitResult, ...] | None = None

    @property
    def are_known(self) -> bool:
        """Whether there are figures for every check of the plan."""
        return len(self.looks) == len(self.plan.shape.checks)

    def _all(self) -> tuple[LimitResult, ...]:
        if self._made is None:
            self._made = _results(self.plan, self.looks) if self.are_known else ()
        return self._made

    @overload
    def __getitem__(self, index: int) -> LimitResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LimitResult, ...]: ...
    def __getitem__(self, index: int | slice) -> LimitResult | tuple[LimitResult, ...]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())


def _results(plan: Plan, looks: Sequence[Look]) -> tuple[LimitResult, ...]:
    stateless = [
        LimitResult(limit, named_scope(limit, plan), look.used, look) for limit, look in (*plan.guards, *plan.gates)
    ]
    counted = [
        LimitResult(check.limit, named_scope(check.limit, plan), check.amount, look)
        for check, look in zip(plan.checks, looks, strict=True)
    ]
    return (*stateless, *counted)


def named_scope(limit: Limit, plan: Plan) -> Mapping[str, str]:
    """The dimensions that separate the limit's cells, with the request's values."""
    return {name: plan.operation.scope[name] for name in limit.scope}
