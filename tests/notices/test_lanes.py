"""Whose note comes next: the oldest, unless its endpoint or its tenant has just failed."""

from itertools import pairwise

import pytest

from server.domain.operation import TenantRef
from server.jobs.webhook import lanes as module
from server.jobs.webhook.lanes import Lane, Lanes

NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0)


@pytest.fixture
def lanes() -> Lanes:
    """Four tenants, a with the oldest note."""
    lanes = Lanes()
    for number, name in enumerate(NAMES):
        lanes.add(TenantRef("p", name), 1000 + number)
    return lanes


def chosen(lanes: Lanes, now_s: float) -> Lane:
    lane = lanes.next(now_s)
    assert lane is not None
    return lane


def name_of(lanes: Lanes, now_s: float) -> str:
    lane = lanes.next(now_s)
    return lane.ref.tenant if lane is not None else ""


def test_the_oldest_note_comes_first(lanes: Lanes) -> None:
    order = []
    while (lane := lanes.next(0)) is not None:
        order.append(lane.ref.tenant)
        lanes.succeeded(lane)
        lanes.remove(lane)
    assert order == list(NAMES)
    assert lanes.due_at_s() is None


def test_a_tenant_has_one_lane(lanes: Lanes) -> None:
    lanes.add(TenantRef("p", "d"), 1)
    assert name_of(lanes, 0) == "a"
    assert TenantRef("p", "d") in lanes


def test_a_failure_pauses_all_and_then_lets_another_go_first(lanes: Lanes) -> None:
    assert lanes.failed(chosen(lanes, 0), 0) == 1
    assert (name_of(lanes, 0.9), lanes.due_at_s()) == ("", 1)
    assert name_of(lanes, 1) == "b"


def test_pauses_double_up_to_a_bound(lanes: Lanes) -> None:
    now_s, pauses = 0.0, []
    for _ in range(14):
        lane = chosen(lanes, now_s)
        pauses.append(lanes.failed(lane, now_s))
        due_s = lanes.due_at_s()
        assert due_s is not None
        now_s = due_s
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == module.LONGEST_PAUSE_S == 600


def test_after_an_outage_all_come_back_in_their_order(lanes: Lanes) -> None:
    now_s = 0.0
    for _ in range(9):
        lanes.failed(chosen(lanes, now_s), now_s)
        now_s = lanes.due_at_s() or now_s
    lanes.succeeded(chosen(lanes, now_s))
    order = []
    while (lane := lanes.next(now_s)) is not None:
        order.append(lane.ref.tenant)
        lanes.remove(lane)
    assert order == list(NAMES)


def test_a_tenant_whose_notes_are_not_taken_waits_longer_and_longer(lanes: Lanes) -> None:
    now_s, tries = 0.0, []
    for _ in range(200):
        lane = chosen(lanes, now_s)
        if lane.ref.tenant == "a":
            tries.append(now_s)
            lanes.failed(lane, now_s)
        else:
            lanes.succeeded(lane)
        now_s = max(now_s, lanes.due_at_s() or 0) + 0.5
    gaps = [after - before for before, after in pairwise(tries)]
    assert len(tries) < 12
    assert gaps == sorted(gaps)
    assert gaps[-1] > 30
