"""kill -9 of the store and of the server, again and again under load: everything that was answered is still there."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

from grpc import StatusCode, aio

from tests.conftest import Figure
from tests.faults.sizes import size
from tests.store_state import StoredHold, broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, embedded_store, kill, serving
from tests.waiting import PAUSE_S, until

OPENING: Final = 10_000_000
WORKERS: Final = 6
ANSWERS_BEFORE_A_KILL: Final = 60
SETTLED: Final = 2
KEY: Final = "hg:{lab/acme}:h:"

Answered = dict[str, int]
"""Per hold what its caller was told last: the credits that were charged, or -1 for a grant."""


class Gone(Exception):
    """The server is not there."""


async def work(gateway: Gateway, name: str, answered: Answered, over: Callable[[], bool]) -> None:
    """Takes and settles one piece of work after the other; what was not answered is asked again with the same id."""
    random = Random(name)  # noqa: S311  # the same work in every run
    number = 0
    try:
        while not over():
            number += 1
            hold_id, used = f"{name}-{number}", random.randint(0, PRICE)
            await insist(lambda hold_id=hold_id: gateway.take(hold_id))  # type: ignore[misc]  # its default is its value
            answered[hold_id] = -1
            if random.random() < 0.7:
                await insist(lambda hold_id=hold_id, used=used: gateway.settle(hold_id, used))  # type: ignore[misc]  # same
                answered[hold_id] = used
    except Gone:
        return


async def insist(call: Callable[[], Awaitable[object]]) -> None:
    """Sends a call until it is answered; `Gone` when the server itself is."""
    async with asyncio.timeout(60):
        while True:
            try:
                await call()
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
                if not error.trailing_metadata():
                    raise Gone from error
            else:
                return
            await asyncio.sleep(PAUSE_S)


def lost(store: RunningStore, answered: Answered) -> list[str]:
    """The holds of which the store does not know what their callers were told."""
    left_out = []
    for hold_id, used in answered.items():
        raw = store.command("GET", f"{KEY}{hold_id}")
        hold = StoredHold.parse(raw) if raw else None
        if hold is None or (used >= 0 and (hold.state, hold.meters[0][2]) != (SETTLED, used)):
            left_out.append(hold_id)
    return left_out


async def test_nothing_answered_is_lost_when_a_store_that_writes_always_is_killed(
    tmp_path: Path, figure: Figure
) -> None:
    kills, answered = size(2, 3, 50), Answered()
    over = False
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url) as server,
            channels_to(server.address, each=WORKERS) as channels,
            asyncio.TaskGroup() as crew,
        ):
            await insist(lambda: Gateway(channels[0]).open_account(OPENING))
            for number, channel in enumerate(channels):
                crew.create_task(work(Gateway(channel), f"w{number}", answered, lambda: over))
            for _ in range(kills):
                enough = len(answered) + ANSWERS_BEFORE_A_KILL
                await until(lambda enough=enough: len(answered) >= enough, what="answers", within_s=60)  # type: ignore[misc]  # its default is its value
                await asyncio.to_thread(store.kill)
                await asyncio.to_thread(store.start)
            over = True
        assert lost(store, answered) == []
        assert broken_rules(snapshot(store)) == []
    figure(f"{kills} kills, 0 of {len(answered):,} holds lost")


async def test_nothing_answered_is_lost_when_servers_are_killed(tmp_path: Path, figure: Figure) -> None:
    kills, answered = size(2, 3, 50), Answered()
    for life in range(kills):
        async with (
            serving(tmp_path, "--fsync", "always") as server,
            channels_to(server.address, each=WORKERS) as channels,
            asyncio.TaskGroup() as crew,
        ):
            if not life:
                await insist(lambda channels=channels: Gateway(channels[0]).open_account(OPENING))  # type: ignore[misc]  # its default is its value
            enough = len(answered) + ANSWERS_BEFORE_A_KILL
            for number, channel in enumerate(channels):
                crew.create_task(work(Gateway(channel), f"l{life}w{number}", answered, lambda: False))
            await until(lambda enough=enough: len(answered) >= enough, what="answers", within_s=60)  # type: ignore[misc]  # its default is its value
            kill(server)
    async with serving(tmp_path):
        store = embedded_store(tmp_path)
        assert lost(store, answered) == []
        assert broken_rules(snapshot(store)) == []
    figure(f"{kills} kills, 0 of {len(answered):,} holds lost")
