"""How far notes have been told to the webhook: what an engine keeps of that beside the notes themselves."""

from collections.abc import Mapping
from typing import Protocol

from server.domain.operation import TenantRef


class Feed(Protocol):
    """The webhook's bookkeeping. `within_s` bounds each call: past it StoreUnavailableError."""

    async def hold_lease(self, owner: str, lasts_ms: int, within_s: float) -> int | None:
        """Takes the right to tell, or renews it, for so long; 0 gives it back. When there first was a webhook, in
        milliseconds since the epoch; None while another owner has the right.
        """

    async def untold(self, within_s: float) -> Mapping[TenantRef, int]:
        """Tenants with notes that were not told, by when the oldest of them was made; tenants whose names cannot be
        read are left out.
        """

    async def cursor(self, ref: TenantRef, within_s: float) -> str:
        """The id of the last note that was told; empty for none."""

    async def tell(self, ref: TenantRef, cursor: str, note_id: str, within_s: float) -> bool:
        """Moves the cursor from `cursor` to `note_id`; False, with nothing changed, when it is elsewhere."""
