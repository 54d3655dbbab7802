"""Who in this process is woken when a tenant has new notes."""

from collections.abc import Callable
from typing import TypeAlias

from server.domain.errors import CorruptStateError
from server.domain.operation import TenantRef
from server.engine import keys
from server.engine.subscription import Subscription

Listener: TypeAlias = Callable[[TenantRef | None], None]
"""Is told the tenant; None when wake-ups may have been lost, so that any tenant may have new notes."""


class Wakes:
    """Wake-ups within this process alone."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def wake(self, ref: TenantRef | None) -> None:
        """Tells every listener."""
        for listener in tuple(self._listeners):
            listener(ref)

    def listen(self, listener: Listener) -> None:
        """Has the listener told from now on."""
        self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Has the listener told no longer."""
        self._listeners.remove(listener)


class StoreWakes(Wakes):
    """Wake-ups that the store at `url` publishes, heard from when somebody first listens."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._subscription = Subscription(url, {keys.NOTED_CHANNEL: self._heard}, on_gap=self._missed)

    def listen(self, listener: Listener) -> None:
        """Has the listener told from now on."""
        super().listen(listener)
        self._subscription.start()

    async def close(self) -> None:
        """Hears nothing more."""
        await self._subscription.close()

    def _heard(self, member: bytes) -> None:
        try:
            self.wake(keys.tenant_of(member))
        except CorruptStateError:
            self.wake(None)

    def _missed(self) -> None:
        self.wake(None)
