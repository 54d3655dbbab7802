"""One run, decided before it begins; every process of it gets the same plan."""

from dataclasses import dataclass
from typing import Final

from loadtest.mix import Mix
from loadtest.tenants import Picker, picker
from server.reaching import Target

PROBE: Final = "probe"
"""The tenant that no load touches; its figures are those with which all the others began."""


@dataclass(frozen=True, slots=True)
class Closed:
    """`callers` callers, each of which asks again as soon as it has been answered."""

    callers: int


@dataclass(frozen=True, slots=True)
class Open:
    """`rate` decisions per second, due whether or not earlier ones were answered; at most `in_flight` at once."""

    rate: float
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What is asked of whom, how, and for how long.

    Operations travel `via` one of the callers, at most `batch` of them in a message where that has several. The load
    ends after `duration_s` seconds of measuring, or after `count` decisions where that comes first; the
    `warm_up_s` seconds before that are not measured. `repeats` is the share of operations sent a second time with
    the same id. `run` is unique to the run and begins the name of every tenant and the id of every request.
    """

    target: Target
    via: str
    batch: int
    connections: int
    processes: int
    pace: Closed | Open
    warm_up_s: float
    duration_s: float
    count: int | None
    timeout_s: float
    mix: Mix
    tenants: int
    spread: str
    repeats: float
    set_up: bool
    audit: bool
    unaudited: frozenset[str]
    seed: int
    run: str

    def tenant(self, number: int) -> str:
        """A tenant's name."""
        return f"{self.run}-t{number}"

    @property
    def probe(self) -> str:
        """The name of the tenant that no load touches."""
        return f"{self.run}-{PROBE}"

    def picker(self) -> Picker:
        """The way to draw tenants."""
        return picker(self.spread, self.tenants)
