"""A script as the engine calls it."""

from collections.abc import Sequence
from typing import NamedTuple

from server.engine import keys
from server.engine.pipeline import Heard


class ScriptCall(NamedTuple):
    """A script for one tenant and hold, with its arguments and the window keys that it looks at.

    `heard` counts its replies where that depends on more than its name.
    """

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

    @property
    def whose(self) -> str:
        """The tenant, as errors name it."""
        return self.tenant.member.decode()
