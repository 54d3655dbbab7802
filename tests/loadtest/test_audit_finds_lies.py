"""A server that is off by one is caught, in whatever it is off; an honest one is not accused."""

import pytest

from loadtest import resolve
from loadtest.callers import CALLERS
from tests.loadtest.fake_server import OPENING, FakeServer, Lies
from tests.loadtest.in_process import run

MIXED = ("--tenants", "5", "--callers", "8", "--settle", "7", "--release", "2", "--abandon", "1", "--delivered", "0..1")


@pytest.mark.parametrize("via", CALLERS)
async def test_an_honest_server_is_not_off_by_a_unit(via: str) -> None:
    fake = FakeServer()

    ran = await run(fake, *MIXED, "--count", "300", "--repeats", "0.2", "--via", via)

    assert ran.audit.clean
    assert ran.audit.findings == []
    assert ran.audit.tenants == 5
    assert ran.audit.figures == 5 * 4
    assert ran.measured.counts.granted > 50
    assert ran.measured.counts.replays > 10


@pytest.mark.parametrize(
    ("lies", "words", "about"),
    [
        (Lies(charged_too_much=1), (), "credits: credits charged"),
        (Lies(held_too_much=1), (), "credits: credits held"),
        (Lies(places_leaked=1), (), "jobs: places taken"),
        (Lies(settled_reply_off=1), (), "answers: settled credits"),
        (Lies(replays_take_again=True), ("--repeats", "1"), "credits: credits held"),
    ],
)
async def test_a_server_that_is_off_by_one_is_caught(lies: Lies, words: tuple[str, ...], about: str) -> None:
    fake = FakeServer(lies)

    ran = await run(fake, "--tenants", "1", "--callers", "1", "--count", "1", *words)

    assert not ran.audit.clean
    assert ran.audit.units_off >= 1
    assert about in {finding.what for finding in ran.audit.findings}


async def test_the_units_are_added_up_and_the_tenants_named() -> None:
    fake = FakeServer(Lies(charged_too_much=1))

    ran = await run(fake, "--tenants", "2", "--callers", "1", "--count", "10")

    charged = {finding.tenant: finding.off for finding in ran.audit.findings}
    assert sum(charged.values()) == ran.audit.units_off == ran.measured.counts.settled
    assert set(charged) == {name for name in fake.tenants if not name.endswith("probe")}


async def test_an_opening_balance_that_was_not_stored_is_caught() -> None:
    words = ("--setup", "--plan", "pro", "--opening", f"credits={OPENING}", "--tenants", "1", "--count", "1")
    ran = await run(FakeServer(Lies(opening_lost=1)), "--callers", "1", *words)

    assert ran.audit.units_off == 1


@pytest.mark.parametrize("via", CALLERS)
async def test_operations_whose_answers_were_lost_are_asked_again_before_the_audit(via: str) -> None:
    fake = FakeServer()
    fake.lies.lost_answers.update(CheckAndReserve=3, Settle=3, Release=2, GetUsage=2)

    ran = await run(fake, *MIXED, "--count", "60", "--via", via)

    assert ran.measured.counts.errors["CheckAndReserve", "UNAVAILABLE"] == 3
    assert ran.measured.counts.errors["Settle", "UNAVAILABLE"] == 3
    assert ran.audit.clean


async def test_what_stays_unknown_is_told_apart_and_its_tenant_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "MOST_S", 0.2)
    fake = FakeServer()
    fake.lies.lost_answers["CheckAndReserve"] = 1000

    ran = await run(fake, "--tenants", "1", "--callers", "1", "--count", "1")

    assert ran.audit.unknown == 1
    assert ran.audit.left_out == 1
    assert ran.audit.tenants == 0
    assert ran.audit.units_off == 0
    assert not ran.audit.clean


async def test_a_server_that_cannot_be_read_is_a_failed_audit() -> None:
    fake = FakeServer()
    fake.lies.lost_answers["GetUsage"] = 1000

    ran = await run(fake, "--tenants", "1", "--callers", "1", "--count", "1")

    assert "UNAVAILABLE" in ran.audit.failure


async def test_abandoned_holds_count_until_their_leases_end() -> None:
    words = ("--settle", "0", "--abandon", "1", "--tenants", "1", "--callers", "1", "--count", "3")

    held = await run(FakeServer(), *words)
    ended = await run(FakeServer(Lies(lease_ms=1)), *words)

    assert held.audit.clean
    assert held.measured.counts.abandoned == 3
    assert ended.audit.clean
    assert ended.audit.uncertain == 0


async def test_a_limit_may_be_left_out() -> None:
    fake = FakeServer(Lies(charged_too_much=1))

    ran = await run(fake, "--callers", "1", "--count", "5", "--unaudited", "credits")

    assert ran.audit.clean
