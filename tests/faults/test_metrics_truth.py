"""What the metrics say after chaos is what the store has, past every server.

Exact, whoever vanishes and whatever lapses, is what the store was heard to do: holds opened, ended and expired, units
that could not be collected, refusals by code. A kill takes away no more than the replies that were on their way: of
calls that were not answered, the store may have done what no process has heard. What a killed worker had counted stays,
as its cells are a file in which the next one goes on.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from grpc import StatusCode, aio
from quota.v1.decision_pb2 import OUTCOME_GRANTED

from server.domain.hold import State
from tests.conftest import Figure
from tests.faults.sizes import size
from tests.metrics.scraping import scraped
from tests.store_state import StoredHold, balance_of, snapshot
from tests.stores import RunningStore, free_port, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving, workers_of
from tests.waiting import PAUSE_S, until

CONNECTIONS: Final = 6
BEYOND: Final = 15
"""Units by which a poor tenant's work comes to more than it has."""
BRIEF_MS: Final = 1000
CODE: Final = "insufficient_credits"

_Answer = TypeVar("_Answer")


@dataclass
class Told:
    """What callers know: refusals, and the holds of which some call was not answered."""

    pieces: int
    """Work that is left to do."""
    refused: int = 0
    unanswered: set[tuple[str, str]] = field(default_factory=set)
    poor: list[str] = field(default_factory=list)
    """Tenants that have credits for one piece of work."""


@dataclass(frozen=True)
class Truth:
    """Of some holds and balances, or of the metrics."""

    holds: Counter[str]
    uncollected: int

    def minus(self, other: "Truth") -> "Truth":
        difference = Counter(self.holds)
        difference.subtract(other.holds)
        return Truth(difference, self.uncollected - other.uncollected)


ENDED: Final = {State.SETTLED: "settled", State.SETTLED_LATE: "settled_late", State.RELEASED: "released"}


def stored(store: RunningStore, left_out: set[tuple[str, str]]) -> Truth:
    """What the store has, but for these holds and their tenants' balances."""
    holds: Counter[str] = Counter()
    uncollected = 0
    tenants = {tenant for tenant, _ in left_out}
    for key, (_, content, _) in snapshot(store).items():
        tenant, _, rest = key.decode().removeprefix("hg:{lab/").partition("}:")
        if rest.startswith("h:") and (tenant, rest[2:]) not in left_out:
            state = State(StoredHold.parse(content).state)  # type: ignore[arg-type]  # a string
            holds["opened"] += 1
            holds["expired"] += state in {State.EXPIRED, State.SETTLED_LATE}
            if state in ENDED:
                holds[ENDED[state]] += 1
        elif rest == "cells" and tenant not in tenants:
            cells = content.items()  # type: ignore[attr-defined]  # a hash
            uncollected += sum(balance_of(raw)["uncollected"] for name, raw in cells if name.startswith(b"credits"))
    return Truth(holds, uncollected)


def counted(address: str) -> tuple[Truth, int]:
    """What the metrics say, and the refusals."""
    found = scraped(address)
    ended = {labels[0]: int(value) for labels, value in found.get("holdgate_holds_ended_total", {}).items()}
    holds = Counter(ended)
    holds["opened"] = int(sum(found.get("holdgate_holds_opened_total", {}).values()))
    holds["expired"] = int(sum(found.get("holdgate_holds_expired_total", {}).values()))
    uncollected = int(sum(found.get("holdgate_uncollected_units_total", {}).values()))
    return Truth(holds, uncollected), int(found.get("holdgate_decisions_total", {}).get(("lab", "refused", CODE), 0))


async def work(channel: aio.Channel, name: str, told: Told, *, lapses: bool) -> None:
    """Takes, settles, releases, gives up, and asks for more than there is; `lapses`: and forgets about holds."""
    random = Random(name)  # noqa: S311  # the same in every run
    number = 0
    while told.pieces > 0:
        told.pieces -= 1
        number += 1
        hold_id = f"{name}-{number}"
        match random.randrange(6):
            case 0:
                await spend_it_all(Gateway(channel, told.poor.pop()), told)
            case 1:
                await give_up(Gateway(channel), hold_id, random.random() * 0.003, told)
            case 2:
                action = "brief" if lapses else "work"
                await insist(told, Gateway(channel), hold_id, lambda g, h, a=action: g.take(h, a))  # type: ignore[misc]  # its default is its value
            case 3:
                await insist(told, Gateway(channel), hold_id, Gateway.take)
                await insist(told, Gateway(channel), hold_id, Gateway.release)
            case _:
                await insist(told, Gateway(channel), hold_id, Gateway.take)
                for _ in range(random.randint(1, 2)):
                    await insist(told, Gateway(channel), hold_id, lambda g, h: g.settle(h, PRICE - 3))


async def spend_it_all(gateway: Gateway, told: Told) -> None:
    """A tenant whose credits are for one piece of work, which comes to more than that."""
    await insist(told, gateway, "only", Gateway.take)
    decision = await insist(told, gateway, "more", Gateway.reserve)
    told.refused += decision.outcome != OUTCOME_GRANTED
    await insist(told, gateway, "only", lambda g, h: g.settle(h, PRICE + BEYOND))


async def give_up(gateway: Gateway, hold_id: str, after_s: float, told: Told) -> None:
    """Asks, and is gone before the answer."""
    told.unanswered.add((gateway.tenant, hold_id))
    call = asyncio.ensure_future(gateway.reserve(hold_id))
    await asyncio.sleep(after_s)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def insist(
    told: Told, gateway: Gateway, hold_id: str, call: Callable[[Gateway, str], Awaitable[_Answer]]
) -> _Answer:
    """Sends a call until it is answered, and notes of which hold one was not."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await call(gateway, hold_id)
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
                told.unanswered.add((gateway.tenant, hold_id))
            await asyncio.sleep(PAUSE_S)


async def open_poor(channel: aio.Channel, name: str, count: int) -> list[str]:
    """So many tenants with credits for one piece of work."""
    tenants = [f"poor-{name}-{number}" for number in range(count)]
    for tenant in tenants:
        await Gateway(channel, tenant).open_account(PRICE)
    return tenants


async def chaos(channels: Sequence[aio.Channel], name: str, told: Told, *, lapses: bool) -> None:
    """Work over every connection until enough is done."""
    told.poor = await open_poor(channels[0], name, told.pieces)
    crew = (work(channel, f"{name}{number}", told, lapses=lapses) for number, channel in enumerate(channels))
    await asyncio.gather(*crew)


async def test_after_chaos_the_metrics_are_what_the_store_has(tmp_path: Path, figure: Figure) -> None:
    kills, pieces = size(2, 2, 20), size(60, 60, 300)
    metrics = f"127.0.0.1:{free_port()}"
    flags = ("--workers", "2", "--metrics-address", metrics, "--sweep-interval-ms", "200")
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        async with (
            serving(tmp_path, "--redis-url", store.url, *flags) as server,
            channels_to(server.address, each=CONNECTIONS) as channels,
        ):
            await Gateway(channels[0]).open_account(10**9)
            killed = Told(pieces * (kills + 1))
            at_work = asyncio.ensure_future(chaos(channels, "killed", killed, lapses=False))
            for kill in range(1, kills + 1):
                rest = pieces * (kills + 1 - kill)
                await until(lambda rest=rest: killed.pieces <= rest, what="some work", within_s=300)  # type: ignore[misc]  # its default is its value
                if kill % 2:
                    os.kill(workers_of(server)[0], signal.SIGKILL)
                else:
                    await asyncio.to_thread(store.kill)
                    await asyncio.to_thread(store.start)
            await at_work
            every, heard = stored(store, set()), stored(store, killed.unanswered)
            found, refused = counted(metrics)
            for what, most in every.holds.items():
                assert heard.holds[what] <= found.holds[what] <= most, what
            assert heard.uncollected <= found.uncollected <= every.uncollected
            assert killed.refused <= refused <= killed.refused + len(killed.unanswered)

            calm = Told(pieces * kills)
            await chaos(channels, "calm", calm, lapses=True)
            await until(lambda: not any_lapsing(store), what="short leases to end")
            then, now = stored(store, set()), counted(metrics)
            assert now[0].minus(found) == then.minus(every)
            assert now[1] - refused == calm.refused > 0
            added = then.minus(every)
            assert min(added.holds["expired"], added.holds["released"], added.uncollected) > 0
    figure(
        f"after {kills} kills {found.holds['opened']:,} holds counted of {every.holds['opened']:,}, of"
        f" {len(killed.unanswered):,} of which a call was not answered; then {added.holds['opened']:,} more with"
        f" {added.holds['expired']:,} lapsed, {added.uncollected:,} units uncollected, {calm.refused:,} refusals,"
        " all counted to the unit"
    )


def any_lapsing(store: RunningStore) -> bool:
    """Whether a hold is open whose lease is short."""
    holds = [
        StoredHold.parse(content)  # type: ignore[arg-type]  # a string
        for key, (_, content, _) in snapshot(store).items()
        if b"}:h:" in key
    ]
    return any(hold.state == State.ACTIVE and hold.lease_end - hold.created <= BRIEF_MS for hold in holds)
