"""Is this still the store that we know? A known store that comes back empty must not hand out budgets anew.

The store carries a random id (`hg:epoch`), and every server remembers the id that it saw last. A store with
no id, or with another one, has been emptied, restored from elsewhere or exchanged: whatever was spent and
held in it is gone, and only an operator can say whether that may be.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from server.engine.store_errors import StoreLost, StoreUnsuitable

if TYPE_CHECKING:
    from pathlib import Path

    from server.engine.pipeline import StoreCall

EPOCH_KEY: Final = b"hg:epoch"
"""Hash: `id` is the store's epoch, 16 hex digits; each field `adopted:<id>` is one that it stands in for."""

_ID: Final = b"id"
_ADOPTED: Final = b"adopted:"
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class EpochState:
    """The outcome of one look at the store's epoch."""

    stored: str | None
    """The epoch in the store; None when it has none."""
    remembered: str | None
    """The epoch that this server knows the store by; None at the first contact."""

    @property
    def trusted(self) -> bool:
        """Whether the store is the one that is remembered."""
        return self.stored is not None and self.stored == self.remembered


def memory_path(state_dir: Path, address: object) -> Path:
    """The file that remembers the epoch of the store at an address (without user and password)."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    return state_dir / f"epoch-{digest}.json"


class EpochGuard:
    """Watches one store's epoch: verify on each connect and every few seconds."""

    def __init__(self, call: StoreCall, memory: Path) -> None:
        self._call = call
        self._memory = memory
        self._state: EpochState | None = None
        self._turn = asyncio.Lock()

    @property
    def trusted(self) -> bool:
        """Whether the last look found the store that is remembered; false before the first one."""
        return self._state is not None and self._state.trusted

    def require_trusted(self) -> None:
        """Raise `StoreLost` unless the store is the one that is remembered."""
        if self._state is None:
            raise StoreLost("the store's epoch was not looked at yet", reason="epoch_unknown")
        if not self._state.trusted:
            stored = f"carries epoch {self._state.stored}" if self._state.stored else "carries no epoch"
            raise StoreLost(
                f"this server knows the store by epoch {self._state.remembered}, but the store {stored}:"
                " it was emptied, restored or exchanged, and what was spent and held in it is gone."
                " Bring the old data back, or accept the loss with: holdgate store adopt",
                reason="epoch_lost",
            )

    async def verify(self) -> EpochState:
        """Look at the store; at the first contact, agree on an epoch with it.

        A store that lost its epoch is left as it is, and `trusted` turns false. Raises `StoreError` when the
        store does not answer; the last state then stays.
        """
        async with self._turn:
            remembered = self._recall()
            stored, adopted = await self._look()
            if stored is None and remembered is None:
                stored = await self._settle_on(_new_id())
            if stored is not None and stored != remembered and (remembered is None or remembered in adopted):
                self._remember(stored)
                remembered = stored
            self._state = EpochState(stored, remembered)
            return self._state

    async def adopt(self) -> EpochState:
        """Accept the store as it is in place of the remembered one, for every server that knew that one."""
        async with self._turn:
            remembered = self._recall()
            stored, _ = await self._look()
            if remembered is not None and stored != remembered:
                # First, so that no server meets a new epoch that does not name the old one.
                await self._call("HSET", EPOCH_KEY, _ADOPTED + remembered.encode(), 1)
            if stored is None:
                stored = await self._settle_on(_new_id())
            self._remember(stored)
            self._state = EpochState(stored, stored)
            return self._state

    async def _look(self) -> tuple[str | None, frozenset[str]]:
        reply: list[bytes] = await self._call("HGETALL", EPOCH_KEY)
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        stored = fields.pop(_ID, None)
        adopted = frozenset(name.removeprefix(_ADOPTED).decode() for name in fields)
        return None if stored is None else stored.decode(), adopted

    async def _settle_on(self, epoch: str) -> str:
        """Give the store an epoch; when another server was first, take that one's."""
        await self._call("HSETNX", EPOCH_KEY, _ID, epoch)
        stored: bytes = await self._call("HGET", EPOCH_KEY, _ID)
        return stored.decode()

    def _recall(self) -> str | None:
        try:
            return str(json.loads(self._memory.read_bytes())["epoch"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable("read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreLost(
                f"{self._memory} does not say which store this server knows ({error!r}); delete it to accept"
                " the store as it is",
                reason="epoch_unknown",
            ) from error

    def _remember(self, epoch: str) -> None:
        fresh = self._memory.with_name(f"{self._memory.name}.{os.getpid()}")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w") as file:
                json.dump({"epoch": epoch}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._memory)
        except OSError as error:
            raise self._unusable("written", error) from error

    def _unusable(self, done: str, error: OSError) -> StoreUnsuitable:
        return StoreUnsuitable(
            f"{self._memory} cannot be {done}: {error.strerror}. There this server remembers which store it knows, one"
            " of your own, too: --data-dir or HOLDGATE_DATA_DIR names a folder that it may write to",
            reason="epoch_memory",
        )


def _new_id() -> str:
    return secrets.token_hex(_ID_BYTES)
