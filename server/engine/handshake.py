"""The first words on a new connection to the store, whatever it is for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from server.engine.store_errors import StoreUnavailable

if TYPE_CHECKING:
    from server.engine.pipeline import StoreCall
    from server.engine.store_address import StoreAddress


async def shake_hands(address: StoreAddress, call: StoreCall, name: str) -> None:
    """Log in, pick the database, and see that the peer answers as Redis does and has its data loaded."""
    if address.password is not None:
        user = () if address.username is None else (address.username,)
        await call("AUTH", *user, address.password)
    with suppress(StoreUnavailable):  # the name is only for people, and a user may lack the right
        await call("CLIENT", "SETNAME", name)
    if address.db:
        await call("SELECT", address.db)
    await call("PING")
