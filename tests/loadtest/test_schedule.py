"""When calls are due, and from when their latency counts."""

import asyncio
from itertools import chain
from time import monotonic

import pytest
from quota.v1 import quota_service_pb2 as quota

from loadtest.loops import Load
from loadtest.pauses import Pauses
from loadtest.player import Player
from loadtest.recorder import Recorder, histogram
from loadtest.requests import Draw
from loadtest.schedule import TIMER_S, Arrivals, counted_from
from tests.loadtest.plans import plan


def test_arrivals_come_at_a_constant_rate_and_none_is_added_up_wrongly() -> None:
    arrivals = Arrivals(30)

    due = arrivals.take(3600)

    assert len(due) == 30 * 3600 + 1
    assert due[:3] == [0, 1 / 30, 2 / 30]
    assert due[-1] == 3600
    assert arrivals.take(3600) == []


def test_processes_share_the_arrivals_evenly() -> None:
    shares = [Arrivals(10, first=number, step=3).take(1) for number in range(3)]

    assert sorted(chain.from_iterable(shares)) == [number / 10 for number in range(11)]
    assert [len(share) for share in shares] == [4, 4, 3]


@pytest.mark.parametrize(
    ("now_s", "counted_s"), [(10.0, 10.0), (10.0004, 10.0004), (10.001, 10.001), (10.5, 10 + TIMER_S)]
)
def test_latency_counts_from_when_a_call_was_due_however_late_it_goes_out(now_s: float, counted_s: float) -> None:
    assert counted_from(10.0, now_s) == pytest.approx(counted_s)


class SlowOnce:
    """Refuses everything at once, yet answers the first call after half a second."""

    def __init__(self) -> None:
        self.calls = 0

    async def reserve(self, _request: quota.CheckAndReserveRequest, _timeout_s: float) -> quota.CheckAndReserveResponse:
        self.calls += 1
        if self.calls == 1:
            await Pauses().until(monotonic() + 0.5)
        response = quota.CheckAndReserveResponse()
        response.decision.refusal.code = "no"
        return response

    async def settle(self, _request: quota.SettleRequest, _timeout_s: float) -> quota.SettleResponse:
        raise AssertionError("nothing was granted")

    async def release(self, _request: quota.ReleaseRequest, _timeout_s: float) -> quota.ReleaseResponse:
        raise AssertionError("nothing was granted")


async def latencies(caller: SlowOnce, *words: str) -> list[float]:
    """Plays the load against the caller; the 50th and 99th percentile in ms, and the number of answers."""
    made = plan(*words)
    recorder = Recorder(monotonic())
    player = Player(made, Draw(made, 0), caller, recorder)
    await Load(made, 0, player, start_s=recorder.measure_from_s).run(player.stop)
    taken = histogram()
    taken.decode_and_add(recorder.cut(monotonic()).latencies["CheckAndReserve"])
    return [*(taken.get_value_at_percentile(p) / 1000 for p in (50, 99)), taken.total_count]


async def test_calls_that_waited_behind_a_slow_one_show_it() -> None:
    """The open loop omits nothing: with one call at a time, all that was due in the slow half second waited."""
    middle, high, count = await latencies(SlowOnce(), "--rate", "100", "--in-flight", "1", "--duration", "600ms")

    assert count > 50
    assert high > 450
    assert middle > 150


async def test_a_load_that_is_behind_when_its_time_is_up_ends() -> None:
    """Of several arrivals due at one tick, the first that comes too late must not keep the only place."""
    slow = SlowOnce()

    _, _, count = await asyncio.wait_for(
        latencies(slow, "--rate", "10000", "--in-flight", "1", "--duration", "300ms"), timeout=20
    )

    assert count == slow.calls == 1


async def test_a_slow_call_holds_up_nobody_else_in_the_open_loop() -> None:
    middle, _, count = await latencies(SlowOnce(), "--rate", "100", "--duration", "600ms")

    assert count > 50
    assert middle < 150


async def test_the_closed_loop_ends_after_so_many_decisions() -> None:
    caller = SlowOnce()

    await latencies(caller, "--callers", "7", "--count", "500")

    assert caller.calls == 500


async def test_a_wait_is_not_early_and_ends_at_a_word() -> None:
    pauses = Pauses()
    before_s = monotonic()

    await pauses.until(before_s + 0.0123)
    waited_s = monotonic() - before_s
    waiting = asyncio.create_task(pauses.until(before_s + 3600))
    await asyncio.sleep(0)
    pauses.end()
    await asyncio.wait_for(waiting, 5)

    assert waited_s >= 0.0123
    await asyncio.wait_for(pauses.until(before_s + 3600), 5)
