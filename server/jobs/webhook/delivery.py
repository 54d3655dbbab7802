"""Tells the notes of all tenants to one endpoint, one after the other, from one of all server processes at a time.

How far it has come stands in the store, so a process that takes over goes on where the last one ended; what had been
sent and not yet been marked is sent again, under the same id.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import uniform
from types import TracebackType
from typing import Final, Protocol, Self

from server.domain.errors import HoldgateError, InvalidRequestError
from server.domain.operation import TenantRef
from server.engine.base import Engine
from server.jobs.webhook.endpoint import EndpointError
from server.jobs.webhook.lanes import Lane, Lanes
from server.jobs.webhook.message import headers_of, message_of
from server.logs import log
from server.notices import Notification, told_by
from server.policy.store import PolicyStore

LEASE_MS: Final = 60_000
"""How long a process that died keeps others from telling; longer than two attempts take."""

RENEW_S: Final = 15.0
"""After this much of its lease a process renews it; the others look as often whether it is free."""

LOOK_AGAIN_S: Final = 60.0
"""How long a wake-up that got lost unnoticed delays a note at most."""

LOOK_APART_S: Final = 1.0
"""Between two looks at all tenants, however often wake-ups are known to have been lost."""

PAGE: Final = 100
GIVE_UP_MS: Final = 7 * 24 * 3600 * 1000
"""A note of this age that the endpoint does not take is not sent again."""

STORE_WITHIN_S: Final = 5.0
STOP_WITHIN_S: Final = 1.0
"""What an attempt may still take when the server stops: one that is cut off will be made again."""


class Takes(Protocol):
    """Where messages go."""

    async def post(self, headers: Mapping[str, str], body: bytes) -> None:
        """Sends one; raises EndpointError."""


class Webhook:
    """Tells while its `async with` block runs. `keys` are the secrets to sign with; `clock` gives milliseconds."""

    def __init__(
        self,
        endpoint: Takes,
        keys: Sequence[bytes],
        engine: Engine,
        policies: PolicyStore,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._engine = engine
        self._policies = policies
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._woken: set[TenantRef] = set()
        self._missed = False
        self._called = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="webhook")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._called.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_WITHIN_S)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(HoldgateError):  # it ends by itself
            await self._engine.feed.hold_lease(self._owner, 0, STORE_WITHIN_S)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                since_ms = await self._lease()
                if since_ms is not None:
                    await self._tell_all(since_ms)
            except HoldgateError as error:
                log.warning("job.failed", job="webhook", error=error.message)
            except Exception:  # noqa: BLE001  # the next round may do better, and the log has the cause
                log.exception("job.failed", job="webhook")
            await _either(self._stopping, RENEW_S * uniform(0.5, 1))  # noqa: S311  # jitter, not a secret

    async def _lease(self) -> int | None:
        return await self._engine.feed.hold_lease(self._owner, LEASE_MS, STORE_WITHIN_S)

    async def _tell_all(self, since_ms: int) -> None:
        """Tells notes as they come, for as long as this process has the lease."""
        loop = asyncio.get_running_loop()
        renew_at_s, look_at_s, looked_s = loop.time() + RENEW_S, 0.0, 0.0
        lanes = Lanes()
        self._engine.wakes.listen(self._wake)
        try:
            while not self._stopping.is_set():
                if loop.time() >= renew_at_s:
                    if await self._lease() is None:
                        return
                    renew_at_s = loop.time() + RENEW_S
                if loop.time() >= look_at_s:
                    for ref, oldest_ms in (await self._engine.feed.untold(STORE_WITHIN_S)).items():
                        lanes.add(ref, oldest_ms)
                    looked_s = loop.time()
                    look_at_s = looked_s + LOOK_AGAIN_S
                await self._open_woken(lanes)
                if self._missed:
                    self._missed, look_at_s = False, min(look_at_s, looked_s + LOOK_APART_S)
                lane = lanes.next(loop.time())
                if lane is not None:
                    await self._tell_next(lanes, lane, since_ms)
                else:
                    until_s = min(renew_at_s, look_at_s, lanes.due_at_s() or renew_at_s)
                    await _either(self._called, until_s - loop.time())
        finally:
            self._engine.wakes.forget(self._wake)

    def _wake(self, ref: TenantRef | None) -> None:
        if ref is not None:
            self._woken.add(ref)
        else:
            self._missed = True
        self._called.set()

    async def _open_woken(self, lanes: Lanes) -> None:
        self._called.clear()
        while self._woken:
            ref = self._woken.pop()
            if ref in lanes:
                continue  # a lane is read to its end
            cursor = await self._engine.feed.cursor(ref, STORE_WITHIN_S)
            if notes := await self._engine.notes(ref, cursor, 1, STORE_WITHIN_S):
                lanes.add(ref, notes[0].at_ms)

    async def _tell_next(self, lanes: Lanes, lane: Lane, since_ms: int) -> None:
        """Tells a lane's next note, and marks it as told; closes the lane when there is none."""
        if not lane.notes and not await self._read_on(lane):
            await self._engine.feed.tell(lane.ref, lane.cursor, lane.cursor or "0-0", STORE_WITHIN_S)
            lanes.remove(lane)
            return
        note = lane.notes[0]
        if note.at_ms >= since_ms:
            try:
                await self._post(self._told(lane))
            except EndpointError as error:
                if not self._is_given_up(lanes, lane, error):
                    return
            else:
                lanes.succeeded(lane)
        if await self._engine.feed.tell(lane.ref, lane.cursor, note.note_id, STORE_WITHIN_S):
            lane.cursor = note.note_id
            lane.notes.popleft()
            lane.oldest_ms = lane.notes[0].at_ms if lane.notes else lane.oldest_ms
        else:
            lane.notes.clear()  # another process told some of them

    async def _read_on(self, lane: Lane) -> bool:
        """Reads a lane's next notes; whether there are any."""
        lane.cursor = await self._engine.feed.cursor(lane.ref, STORE_WITHIN_S)
        lane.notes = deque(await self._engine.notes(lane.ref, lane.cursor, PAGE, STORE_WITHIN_S))
        return bool(lane.notes)

    def _told(self, lane: Lane) -> tuple[TenantRef, Notification]:
        """A lane's next note by its limit; where no policy of that name is here, by what the note itself says."""
        try:
            policy = self._policies.get(lane.ref.policy)
        except InvalidRequestError:
            policy = None
        return lane.ref, told_by(policy, [lane.notes[0]])[0]

    async def _post(self, told: tuple[TenantRef, Notification]) -> None:
        message = message_of(*told)
        headers = headers_of(message, self._keys, int(time.time()))
        await self._endpoint.post(headers, message.body)
        log.debug("webhook.told", tenant=told[0].tenant, note=told[1].note.note_id)

    def _is_given_up(self, lanes: Lanes, lane: Lane, error: EndpointError) -> bool:
        """Puts a note that was not taken off, unless it is too old to try again."""
        note, pause_s = lane.notes[0], lanes.failed(lane, asyncio.get_running_loop().time())
        told = {"policy": lane.ref.policy, "tenant": lane.ref.tenant, "note": note.note_id, "error": str(error)}
        if self._clock() - note.at_ms >= GIVE_UP_MS:
            log.error("webhook.given_up", **told)
            return True
        log.warning("webhook.failed", failures=lane.failures, again_in_s=round(pause_s, 1), **told)
        return False


async def _either(event: asyncio.Event, longest_s: float) -> None:
    """Waits for the event, or for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()
