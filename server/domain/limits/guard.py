"""`guard`: a static bound on one request. It keeps no state and passing it needs no store."""

from dataclasses import dataclass
from typing import ClassVar

from server.domain.limits.base import Kind, Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(Limit):
    """At most `values` units of `meter` in one request; exactly the bound passes."""

    kind: ClassVar[Kind] = Kind.GUARD
