"""A hold as its owner sees it; both clients keep it alive and end it."""

from collections.abc import Mapping
from typing import Final

from quota.v1 import decision_pb2 as decided

from holdgate.asking import Ask


class Hold:
    """What a grant left, for as long as its block runs. `decision` is None when nobody was asked (`degraded`)."""

    def __init__(self, ask: Ask, decision: decided.Decision | None) -> None:
        self.ask: Final = ask
        self.decision: Final = decision
        self._used: dict[str, int] = {}

    @property
    def degraded(self) -> bool:
        """Whether the work goes ahead without a decision, because the server was away and the posture is open."""
        return self.decision is None

    @property
    def hold_id(self) -> str:
        """Names the hold; empty where there is nothing to settle."""
        return self.decision.hold_id if self.decision else ""

    @property
    def used(self) -> Mapping[str, int]:
        """What was reported so far; empty: everything as reserved."""
        return self._used

    def report(self, **totals: int) -> None:
        """Says how much was used in all, by meter. It is charged with the next renewal and when the block ends."""
        self._used.update(totals)
