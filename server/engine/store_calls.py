"""What the engine sends, and what it needs of a connection to send it."""

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from server.engine import keys
from server.engine.pipeline import Heard, Reply, ScriptSource, Word


class Call(NamedTuple):
    """A script for one tenant and hold, with its arguments and the window keys that it looks at."""

    name: str
    tenant: keys.TenantKeys
    hold_id: str
    args: Sequence[bytes]
    window_keys: Sequence[bytes] = ()
    heard: Heard | None = None

    @property
    def keys(self) -> tuple[bytes, ...]:
        """KEYS, in the order that all scripts share."""
        tenant = self.tenant
        hold = tenant.hold(self.hold_id)
        return (tenant.cells, tenant.account, tenant.due, tenant.due_index, hold, *self.window_keys)


class Sent(NamedTuple):
    """A script as it is sent, and what counts its replies, where that depends on more than its name."""

    name: str
    keys: Sequence[bytes]
    args: Sequence[bytes]
    heard: Heard | None = None


class StoreCaller(Protocol):
    """What the engine needs of `client.StoreConnection`."""

    def evalsha(
        self,
        script: ScriptSource,
        keys: Sequence[bytes],
        args: Sequence[Word],
        timeout_s: float,
        heard: Heard | None = None,
    ) -> Awaitable[Reply]:
        """Runs a script; `heard` gets its reply, whether or not anybody still waits for it."""

    def call(self, *words: Word, timeout_s: float = 1.0) -> Awaitable[Reply]:
        """Runs a plain command."""

    async def close(self) -> None:
        """Drops the connection."""
