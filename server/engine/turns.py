"""Who in this process is told when the turn of an open call has come."""

import secrets
from collections.abc import Callable
from typing import TypeAlias

from server.domain.errors import CorruptStateError
from server.domain.operation import TenantRef
from server.engine import keys
from server.engine.subscription import Subscription

TurnListener: TypeAlias = Callable[[TenantRef, str], None]
"""Is told whose turn has come: tenant and hold."""


class Turns:
    """Turns that come within this process, which open calls name as `process`."""

    def __init__(self) -> None:
        self.process = secrets.token_hex(6)
        self._listener: TurnListener = lambda _ref, _hold_id: None
        self._on_gap: Callable[[], None] = lambda: None

    def listen(self, listener: TurnListener, on_gap: Callable[[], None]) -> None:
        """Has the listener told from now on; `on_gap` whenever turns may have been missed."""
        self._listener, self._on_gap = listener, on_gap

    def come(self, ref: TenantRef, hold_id: str) -> None:
        """Tells the listener."""
        self._listener(ref, hold_id)


class StoreTurns(Turns):
    """Turns that the store at `url` publishes for this process, heard from when somebody first listens."""

    def __init__(self, url: str) -> None:
        super().__init__()
        channel = keys.TURN_CHANNEL + self.process.encode()
        self._subscription = Subscription(url, {channel: self._heard}, on_gap=self._missed)

    def listen(self, listener: TurnListener, on_gap: Callable[[], None]) -> None:
        """Has the listener told from now on."""
        super().listen(listener, on_gap)
        self._subscription.start()

    async def close(self) -> None:
        """Hears nothing more."""
        await self._subscription.close()

    def _missed(self) -> None:
        self._on_gap()

    def _heard(self, message: bytes) -> None:
        member, _, hold_id = message.partition(b"\n")
        try:
            self.come(keys.tenant_of(member), hold_id.decode())
        except (CorruptStateError, UnicodeDecodeError):
            self._on_gap()
