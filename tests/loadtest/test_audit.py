"""The audit's arithmetic, figure by figure."""

from collections import Counter

import pytest
from quota.v1 import decision_pb2
from quota.v1 import quota_service_pb2 as quota

from loadtest.audit import Cell, Checked, Reading, check_tenant
from loadtest.ledger import Hold, Ledger, OpenHold, Scope, Tally, Touched, charged, delivered

BALANCE = decision_pb2.LIMIT_KIND_BALANCE
SLOTS = decision_pb2.LIMIT_KIND_SLOTS
WINDOW = decision_pb2.LIMIT_KIND_WINDOW
PROJECT: Scope = (("project", "p1"),)


def reading(kind: int, meter: str, *, limit: int, used: int = 0, held: int = 0) -> Reading:
    """Asked and answered at 50 s."""
    return Reading(kind, meter, limit, used, held, 50.0, 50.001)


def check(tally: Tally, found: Reading, *, began: int = 1000, scope: Scope = ()) -> Checked:
    """Compares one cell, named c."""
    cell = Cell("c", scope)
    opening = {cell: found._replace(limit=began)}
    return check_tenant("t", [tally], opening, {cell: found})


def tally(kind: int, meter: str, *, held: tuple[int, ...] = (), scope: Scope = (), charged_units: int = 0) -> Tally:
    """Books of one kind of request, with open holds whose leases end between 99 and 101 s."""
    return Tally(
        scope=scope,
        limits=(Touched("c", kind, meter, scope),),
        granted=Counter({meter: sum(held) + charged_units}),
        charged=Counter({meter: charged_units}),
        open={f"h{n}": OpenHold({meter or "credits": units}, 99.0, 101.0) for n, units in enumerate(held)},
    )


@pytest.mark.parametrize(
    ("amount", "parts", "expected"), [(10, 1000, 10), (10, 999, 9), (10, 1, 1), (0, 1, 0), (10, 0, 0)]
)
def test_a_share_is_rounded_down_yet_something_delivered_is_at_least_one(
    amount: int, parts: int, expected: int
) -> None:
    assert delivered(amount, parts, 1000) == expected


@pytest.mark.parametrize(
    ("limit", "held", "off"), [(970, 12, 0), (969, 12, 1), (971, 12, 1), (970, 13, 1), (960, 5, 17)]
)
def test_a_balance_is_what_it_began_with_less_what_was_charged(limit: int, held: int, off: int) -> None:
    books = tally(BALANCE, "credits", held=(5, 7), charged_units=30)

    checked = check(books, reading(BALANCE, "credits", limit=limit, held=held))

    assert sum(finding.off for finding in checked.findings) == off
    assert checked.figures == 2


@pytest.mark.parametrize(("used", "off"), [(2, 0), (3, 1), (0, 2)])
def test_a_pool_has_a_place_taken_for_each_open_hold(used: int, off: int) -> None:
    checked = check(tally(SLOTS, "", held=(5, 7)), reading(SLOTS, "", limit=9, used=used))

    assert sum(finding.off for finding in checked.findings) == off


@pytest.mark.parametrize(("used", "off"), [(0, 0), (42, 0), (43, 1)])
def test_a_window_counts_no_more_than_was_granted(used: int, off: int) -> None:
    books = tally(WINDOW, "tokens", charged_units=42)

    assert sum(f.off for f in check(books, reading(WINDOW, "tokens", limit=100, used=used)).findings) == off


def test_a_window_counts_no_more_than_its_limit() -> None:
    books = tally(WINDOW, "tokens", charged_units=420)

    assert [f.off for f in check(books, reading(WINDOW, "tokens", limit=100, used=103)).findings] == [3]


def test_a_cell_is_compared_with_the_requests_of_its_own_scope() -> None:
    books = tally(BALANCE, "credits", held=(5,), scope=PROJECT)

    here = check(books, reading(BALANCE, "credits", limit=1000, held=5), scope=PROJECT)
    elsewhere = check(books, reading(BALANCE, "credits", limit=1000, held=5), scope=(("project", "p2"),))

    assert here.findings == []
    assert [finding.what for finding in elsewhere.findings] == ["c project=p2: credits held"]


@pytest.mark.parametrize(
    ("at_s", "held", "off", "uncertain"),
    [
        (98.0, 5, 0, 0),
        (98.0, 0, 5, 0),
        (100.0, 5, 0, 5),
        (100.0, 0, 0, 5),
        (100.0, 6, 1, 5),
        (102.0, 0, 0, 0),
        (102.0, 5, 5, 0),
    ],
)
def test_a_hold_counts_until_its_lease_ends_and_may_or_may_not_around_that(
    at_s: float, held: int, off: int, uncertain: int
) -> None:
    books = tally(BALANCE, "credits", held=(5,))

    found = reading(BALANCE, "credits", limit=1000, held=held)._replace(asked_s=at_s, answered_s=at_s + 0.001)
    checked = check(books, found)

    assert sum(finding.off for finding in checked.findings) == off
    assert checked.uncertain == uncertain


def grant(amounts: dict[str, int], *, lease_ms: int | None = 1000) -> decision_pb2.Decision:
    return decision_pb2.Decision(
        outcome=decision_pb2.OUTCOME_GRANTED,
        expires_in_ms=lease_ms,
        amounts=amounts,
        limits=[
            decision_pb2.LimitStatus(id="c", kind=BALANCE, meter="credits"),
            decision_pb2.LimitStatus(id="watched", kind=BALANCE, meter="credits", shadow=True),
        ],
    )


def book(decision: decision_pb2.Decision, *, asked: int = 10) -> tuple[Hold, Tally]:
    """Books a grant asked at 50 s and answered at 50.2 s."""
    ledger = Ledger()
    request = quota.CheckAndReserveRequest(tenant="t", request_id="r", amounts={"credits": asked})
    hold = ledger.granted((0, 0, ()), request, decision, 50.0, 50.2)
    return hold, ledger.tallies()[0][0]


def test_a_grant_is_booked_with_its_lease_and_the_limits_that_count() -> None:
    _, books = book(grant({"credits": 10, "requests": 1}))

    assert books.limits == (Touched("c", BALANCE, "credits", ()),)
    assert books.open == {"r": OpenHold({"credits": 10, "requests": 1}, 51.0, 51.2)}
    assert books.wrong == {}


def test_a_grant_of_another_amount_than_was_asked_is_wrong() -> None:
    _, books = book(grant({"credits": 9}))

    assert books.wrong == {"granted credits": 1}


def test_a_grant_without_a_lease_leaves_nothing_open() -> None:
    hold, books = book(grant({"credits": 10}, lease_ms=None))

    assert not hold.leased
    assert books.open == {}


def test_a_settle_charges_the_share_less_what_could_not_be_collected() -> None:
    hold, books = book(grant({"credits": 10}))

    charged(hold, (500, 1000), [quota.MeterOutcome(meter="credits", reserved=10, used=5, uncollected=2)])

    assert books.charged == {"credits": 3}
    assert books.open == {}
    assert books.wrong == {}


def test_a_settle_that_is_answered_with_other_totals_is_wrong() -> None:
    hold, books = book(grant({"credits": 10}))

    charged(hold, (1000, 1000), [quota.MeterOutcome(meter="credits", used=11)])

    assert books.wrong == {"settled credits": 1}
    assert books.charged == {"credits": 10}


def test_a_release_charges_nothing() -> None:
    hold, books = book(grant({"credits": 10}))

    charged(hold, None, [quota.MeterOutcome(meter="credits", reserved=10)])

    assert books.charged.total() == 0
    assert books.open == {}
