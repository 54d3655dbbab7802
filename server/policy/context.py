"""What a limit needs to know of the policy around it while it is compiled."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from server.domain.limits.base import PlanValues
from server.domain.policy import Meter, Unit
from server.policy import values
from server.policy.document import Document, Path, shown

MAX_DURATION_MS: Final = 366 * 86_400_000
"""Longest window, lease or time that a record is kept."""

_ROWS: Final = "values"


@dataclass(slots=True)
class Context:
    """The policy's names, and its document, to which problems go.

    A method that meets a problem notes it and returns a harmless value, so that one reading finds them all.
    """

    document: Document
    tenant: str
    plans: tuple[str, ...]
    meters: Mapping[str, Meter]
    dimensions: frozenset[str]
    actions: frozenset[str]
    rows: Mapping[str, Mapping[str, int | str]]
    used_rows: set[str] = field(default_factory=set)

    def reject(self, path: Path, problem: str) -> None:
        """Notes a problem at `path`."""
        self.document.reject(path, problem)

    def expect_known(self, path: Path, names: Iterable[str], known: Iterable[str], what: str) -> None:
        """Notes each of `names` that is not among `known`."""
        listed = sorted(known)
        for name in names:
            if name not in listed:
                self.reject(path, f"{shown(name)} is no {what} of this policy; {_choices(listed)}")

    def expect_once(self, path: Path, names: Iterable[str]) -> None:
        """Notes each name that is listed twice."""
        seen: set[str] = set()
        for name in names:
            if name in seen:
                self.reject(path, f"{shown(name)} stands here twice; keep one")
            seen.add(name)

    def meter(self, path: Path, name: str) -> Meter:
        """The declared meter of that name."""
        self.expect_known(path, [name], self.meters, "meter")
        return self.meters.get(name, Meter(name))

    def amount(self, path: Path, written: int | str, unit: Unit) -> int:
        """An amount in base units of `unit`."""
        try:
            return values.amount(written, unit)
        except ValueError as error:
            self.reject(path, str(error))
            return 0

    def positive(self, path: Path, written: int | str, unit: Unit) -> int:
        """An amount of at least one base unit."""
        before = self.document.problem_count
        amount = self.amount(path, written, unit)
        if amount == 0 and self.document.problem_count == before:
            self.reject(path, f"{shown(written)} is nothing; expected {values.EXPECTED[unit]}, above 0")
        return amount

    def duration(self, path: Path, written: int | str) -> int:
        """Milliseconds, at least one and at most MAX_DURATION_MS."""
        duration_ms = self.positive(path, written, Unit.DURATION)
        if duration_ms > MAX_DURATION_MS:
            self.reject(path, f"{shown(written)} is too long; expected at most 366d")
        return duration_ms

    def by_plan(self, path: Path, plans: Iterable[str]) -> None:
        """Notes plans that a mapping by plan leaves out or invents."""
        named = tuple(plans)
        self.expect_known(path, named, self.plans, "plan")
        missing = [plan for plan in self.plans if plan not in named]
        if missing:
            self.reject(path, f"no value for {', '.join(missing)}; expected one for each plan")

    def plan_values(self, path: Path, written: int | str | Mapping[str, int | str], unit: Unit) -> PlanValues:
        """A constant, a mapping by plan or a named row."""
        if isinstance(written, Mapping):
            self.by_plan(path, written)
            by_plan = {plan: self._one((*path, plan), value, unit) for plan, value in written.items()}
            return PlanValues(by_plan=by_plan)
        name = row_name(written)
        if name is None:
            return PlanValues(constant=self._one(path, written, unit))
        self.expect_known(path, [name], self.rows, "row in `values`")
        if name not in self.rows:
            return PlanValues(constant=0)
        self.used_rows.add(name)
        return self.plan_values((_ROWS, name), self.rows[name], unit)

    def _one(self, path: Path, written: int | str, unit: Unit) -> int | None:
        return None if written == values.UNLIMITED else self.amount(path, written, unit)


def row_name(written: int | str) -> str | None:
    """The row that a value such as `$ceiling` refers to; None for an amount such as `$30`."""
    if isinstance(written, str) and written[:1] == "$" and written[1:2].isalpha():
        return written[1:]
    return None


def _choices(known: list[str]) -> str:
    return f"it has {', '.join(known)}" if known else "it has none"
