"""A catalog: what the values of one dimension stand for, such as models with their aliases and their provider."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.domain.errors import FieldViolation


@dataclass(frozen=True, slots=True)
class Catalog:
    """`entries` has, for each value and each alias of `dimension`, the dimensions that a request with it has: the
    value's own name, and what it brings with it. Requests for `closed` actions may name no other value.
    """

    dimension: str
    entries: Mapping[str, Mapping[str, str]]
    closed: frozenset[str]

    def resolved(self, scope: Mapping[str, str]) -> Mapping[str, str]:
        """A request's dimensions with the alias resolved and all that it brings; the same object if nothing changes."""
        entry = self.entries.get(scope.get(self.dimension, ""))
        if entry is None or all(scope.get(name) == value for name, value in entry.items()):
            return scope
        return {**scope, **entry}

    def violations(self, action: str, scope: Mapping[str, str]) -> list[FieldViolation]:
        """What is wrong with a request: a value that is not listed where it must be, or one at odds with another."""
        name = self.dimension
        entry = self.entries.get(scope.get(name, ""))
        if entry is None:
            if action not in self.closed:
                return []
            problem = "is required" if name not in scope else f"is {scope[name]!r}, which is not known"
            known = ", ".join(sorted({brought[name] for brought in self.entries.values()}))
            return [FieldViolation(f"scope[{name}]", f"{problem}; {action} has: {known}")]
        return [
            FieldViolation(f"scope[{other}]", f"is {scope[other]!r}; {name} {scope[name]!r} goes with {value!r}")
            for other, value in entry.items()
            if other != name and scope.get(other, value) != value
        ]
