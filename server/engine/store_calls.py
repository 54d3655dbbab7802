"""What the engine asks of a store: scripts and plain commands."""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from server.engine import keys
from server.engine.pipeline import Reply, ScriptSource, Word


class ScriptCall(NamedTuple):
    """A script for one tenant and hold, with its arguments and the window keys that it looks at."""

    name: str
    tenant: keys.TenantKeys
    hold_id: str
    args: Sequence[bytes]
    window_keys: Sequence[bytes] = ()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """KEYS, in the order that all scripts share."""
        tenant = self.tenant
        hold = tenant.hold(self.hold_id)
        return (tenant.cells, tenant.account, tenant.due, tenant.due_index, hold, *self.window_keys)


class StoreCaller(Protocol):
    """What the engine needs of `client.StoreConnection`."""

    def evalsha(
        self, script: ScriptSource, keys: Sequence[bytes], args: Sequence[Word], timeout_s: float
    ) -> Awaitable[Reply]:
        """Runs a script."""

    def call(self, *words: Word, timeout_s: float = 1.0) -> Awaitable[Reply]:
        """Runs a plain command."""

    async def close(self) -> None:
        """Drops the connection."""
