"""Walks over all tenants of a policy: where they are, and for which terms they were made."""

from collections.abc import Sequence
from typing import Protocol

from server.domain.operation import TenantRef


class Walks(Protocol):
    """Of all processes on one store, one walks over a policy's tenants at a time. `within_s` bounds each call."""

    async def tenants(self, policy: str, cursor: str, within_s: float) -> tuple[Sequence[TenantRef], str]:
        """Some tenants of a policy, and where the next ones are. The cursor is empty at the start and at the end. A
        tenant may come twice; none that was there all the time is left out.
        """

    async def walked(self, policy: str, within_s: float) -> str:
        """The terms for which the last walk over this policy's tenants came to its end; empty before the first."""

    async def claim(self, policy: str, owner: str, lasts_ms: int, within_s: float) -> bool:
        """Makes `owner` the one that walks, or keeps it that for longer; whether it is."""

    async def finish(self, policy: str, terms: str, within_s: float) -> None:
        """Puts down that the walk for these terms is over, and lets others walk."""
