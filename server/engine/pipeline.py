"""One open connection to the store: many calls in flight, one write per event-loop turn, replies in order.

The fast path is a tuple, a future, a deque and one C call for the encoding. There is no task and no timer per
call: one timer per connection is armed for the soonest deadline in flight and walks the line when it fires.
CPU time of an EVALSHA with 5 keys and 11 arguments, 50 callers, uvloop: 3.7 µs; with a timer per call 4.3,
with `asyncio.timeout` around each call 6.6, with redis.asyncio 31.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import hiredis

from server.engine.store_errors import OutcomeUnknown, StoreError, StoreUnavailable, error_from_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

log = logging.getLogger(__name__)

Reply: TypeAlias = Any
"""A RESP2 reply: `bytes`, `int`, `None` or a list of replies. Whoever decodes it knows which."""

Word: TypeAlias = bytes | str | int
"""One part of a command; text is sent as UTF-8, integers in decimal."""


class StoreCall(Protocol):
    """Sends one plain command and answers its reply; raises `StoreError`."""

    def __call__(self, *words: Word) -> Awaitable[Reply]:
        """E.g. `await call("HGET", key, "field")`."""


class ScriptSource(Protocol):
    """What the connection needs of a Lua script."""

    @property
    def source(self) -> bytes:
        """The text, as EVAL takes it."""

    @property
    def sha(self) -> bytes:
        """The SHA-1 of the text, 40 hex digits in lower case."""


Heard: TypeAlias = Callable[[Reply, float], None]
"""Gets a reply that is no error, and the seconds that it took; also when nobody waits for it any more."""


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


_Entry: TypeAlias = "tuple[asyncio.Future[Reply], float, float, tuple[Word, ...], ScriptSource | None, Heard | None]"
"""A call in the line: future, deadline (loop time), timeout (s), words, the script when it is an EVALSHA, who hears."""

MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""Bytes that the store has not taken from us yet; beyond that, calls are refused until it does."""

_encode: Final = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)
_NO_REPLY_YET: Final = object()
_TLS_ALERT: Final = b"\x15\x03"
_SEEN_BYTES: Final = 60
"""How much of an answer that is not Redis an error quotes."""

GRAIN_S: Final = 0.002
"""Deadlines closer together than this share one walk along the line, which may be long when the store is slow."""

STALL_S: Final = 2.0
STALL_TIMEOUTS: Final = 4
"""Silence for the larger of `STALL_S` and this many of the shortest timeout in the line condemns the connection."""


class Pipeline(asyncio.Protocol):
    """The calls in flight on one socket. Cancelling or timing out a call never disturbs the others."""

    def __init__(self, max_in_flight: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_in_flight = max_in_flight
        self._transport: asyncio.Transport
        self._reader = hiredis.Reader(replyError=error_from_reply, notEnoughData=_NO_REPLY_YET)
        self._line: deque[_Entry] = deque()
        self._unsent: list[bytes] = []
        self._in_full: dict[bytes, asyncio.Future[Reply]] = {}
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._heard_at = 0.0
        self._why_lost = "the connection broke"
        self._loss_reason = "connection_lost"
        self.lost = False
        self.on_lost: Callable[[], None] | None = None

    def send(
        self,
        words: tuple[Word, ...],
        timeout_s: float,
        script: ScriptSource | None = None,
        heard: Heard | None = None,
    ) -> asyncio.Future[Reply]:
        """Put one call into the line; it leaves at the end of this turn of the event loop.

        With a script, `words` is an EVALSHA that is repeated when the store does not know the script: as EVAL, or
        behind another call's EVAL, so that a store that forgot it gets its text once and not from all who wait.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.lost or self._full or len(self._line) >= self._max_in_flight:
            future.set_exception(self._refusal())
            return future
        deadline = self._loop.time() + timeout_s
        self._enqueue((future, deadline, timeout_s, words, script, heard))
        if deadline < self._timer_at:
            self._arm(deadline)
        return future

    def call(self, timeout_s: float) -> StoreCall:
        """A plain caller on this connection, for the handshake and the checks before it is put to use."""
        return lambda *words: self.send(words, timeout_s)

    @property
    def silent_s(self) -> float:
        """For how long the store has owed an answer and sent nothing, in seconds; 0 while it owes none."""
        return self._loop.time() - self._owing_since() if self._line else 0.0

    def abort(self, why: str, reason: str = "connection_lost") -> None:
        """Drop the socket; every call in flight ends with `OutcomeUnknown`, unsent ones as not executed."""
        if not self.lost:
            self.lost, self._why_lost, self._loss_reason = True, why, reason
            self._transport.abort()

    def _refusal(self) -> StoreUnavailable:
        if self.lost:
            return StoreUnavailable(f"not sent: {self._why_lost}", reason="disconnected")
        return StoreUnavailable(
            f"not sent: {len(self._line)} calls wait for the store, which is slower than the load; at most"
            f" {self._max_in_flight} calls and {MAX_UNSENT_BYTES} unsent bytes may wait",
            reason="overloaded",
        )

    def _enqueue(self, entry: _Entry) -> None:
        unsent = self._unsent
        if not unsent:
            self._loop.call_soon(self._flush)
        unsent.append(_encode(entry[3]))
        self._line.append(entry)

    def _flush(self) -> None:
        unsent = self._unsent
        if unsent and not self.lost:
            self._unsent = []
            self._transport.write(b"".join(unsent))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; its write buffer bounds the bytes that a slow store makes us hold."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def pause_writing(self) -> None:
        """The store does not take what we write: refuse calls until it does."""
        self._full = True

    def resume_writing(self) -> None:
        """The store caught up."""
        self._full = False

    def data_received(self, data: bytes) -> None:
        """Hand replies to their calls, in order; a call that was given up just loses its reply."""
        line = self._line
        next_reply = self._reader.gets
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := next_reply()) is not _NO_REPLY_YET:
                if not line:
                    self.unasked(reply)
                    continue
                entry = line.popleft()
                future, heard = entry[0], entry[5]
                if heard is not None and not isinstance(reply, StoreError):
                    try:
                        heard(reply, self._heard_at - entry[1] + entry[2])
                    except Exception:
                        log.exception("a reply was not understood by who counts it")
                if future.done():
                    continue
                if isinstance(reply, StoreError):
                    self._failed(entry, reply)
                else:
                    future.set_result(reply)
        except hiredis.ProtocolError:
            hint = "; its port wants TLS (rediss://)" if data.startswith(_TLS_ALERT) else ""
            self.abort(f"the peer is not a Redis server, it sent {data[:_SEEN_BYTES]!r}{hint}", "protocol")

    def eof_received(self) -> None:
        """The store hung up: nothing that is still unsent may be written any more."""
        self.abort("the store closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call in flight with what is known about it."""
        if exc is not None:
            self._why_lost = f"{self._why_lost} ({exc})"
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        sent = len(self._line) - len(self._unsent)
        for place, (future, *_) in enumerate(self._line):
            if future.done():
                continue
            if place < sent:
                text = f"no answer, the call may have been executed: {self._why_lost}"
                future.set_exception(OutcomeUnknown(text, reason=self._loss_reason))
            else:
                future.set_exception(self._refusal())
        self._line.clear()
        self._unsent.clear()
        if self.on_lost is not None:
            self.on_lost()

    def _failed(self, entry: _Entry, error: StoreError) -> None:
        future, deadline, timeout_s, words, script, heard = entry
        if error.reason == "noscript" and script is not None:
            first = self._in_full.get(script.sha)
            if first is None or first.done():  # who comes behind it in the line finds the script known
                self._in_full[script.sha] = future
                words, script = (b"EVAL", script.source, *words[2:]), None
            self._enqueue((future, deadline, timeout_s, words, script, heard))
        else:
            future.set_exception(error)

    def unasked(self, reply: Reply) -> None:
        """A store without a free connection says so at once; after anything else, answers could go astray."""
        if isinstance(reply, StoreError):
            self.abort(f"the store refused the connection: {reply}")
        else:
            self.abort(f"the store sent {reply!r} that nobody asked for", "protocol")

    # deadlines

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        """Give up the calls past their deadline, and the connection when the store owes answers and is silent."""
        now = self._loop.time()
        self._timer, self._timer_at = None, inf
        if not self._line:
            return
        soonest = shortest_s = inf
        for future, deadline, timeout_s, *_ in self._line:
            shortest_s = min(shortest_s, timeout_s)
            if future.done():
                continue
            if deadline <= now:
                text = f"no answer within {timeout_s * 1000:.0f} ms, the call may have been executed"
                future.set_exception(OutcomeUnknown(text, reason="timeout"))
            elif deadline < soonest:
                soonest = deadline
        stuck_at = self._owing_since() + max(STALL_S, STALL_TIMEOUTS * shortest_s)
        if stuck_at <= now:
            self.abort("the store stopped answering", "timeout")
        else:
            self._arm(max(min(soonest, stuck_at), now + GRAIN_S))

    def _owing_since(self) -> float:
        """When the store began to owe the answer that is next (loop time), or was heard from last."""
        _, deadline, timeout_s, *_ = self._line[0]
        return max(self._heard_at, deadline - timeout_s)
