"""What goes to the scripts and what comes back: positions, sizes, and records that cannot be read."""

from dataclasses import replace
from typing import Final

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.account import Account, Override
from server.domain.errors import CorruptStateError
from server.domain.hold import Fraction, MeterTotals, State
from server.domain.limits.base import Look
from server.domain.operation import Operation, TenantRef
from server.domain.plan import Plan, make_plan
from server.domain.policy import HoldTerms, Policy, Timed
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from server.engine import keys, records, sequences, wire, wire_money
from server.engine.base import AccountWrite
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, balance, policy, slots, window

REF: Final = TenantRef("lab", "acme")
TENANT: Final = keys.tenant_keys(REF)
LAB: Final = policy(
    window("rpm", 3),
    slots("jobs", 2, scope=("project",)),
    window("tpm", 100, "tokens", scope=("project",)),
    window("rph", 30, window_ms=HOUR_MS, returns=True),
    balance("credits", debt=7, shadow=True),
)


def plan_for(rules: Policy = LAB, **amounts: int) -> Plan:
    operation = Operation(ref=REF, action="work", scope={"project": "p 1", "model": "m"}, amounts=amounts)
    return make_plan(rules, operation, Account(plan="free", version=4), 0)


@given(st.lists(st.one_of(st.integers(-1, MAX_AMOUNT), st.binary(max_size=300), st.just(0)), max_size=70))
def test_values_are_packed_one_behind_the_other(values: list[object]) -> None:
    assert sequences.unpack(sequences.pack(values)) == values


@given(st.lists(st.one_of(st.integers(-1, MAX_AMOUNT), st.binary(max_size=40)), max_size=40), st.data())
def test_a_blank_that_is_filled_in_is_the_sequence(values: list[object], data: st.DataObject) -> None:
    gaps = data.draw(st.sets(st.sampled_from(range(len(values))))) if values else set()
    blank = sequences.Blank([sequences.Gap(at) if at in gaps else value for at, value in enumerate(values)])

    assert blank.filled([sequences.pack_one(value) for value in values]) == sequences.pack(values)


def test_a_plan_is_packed_standing_cells_first_then_windows_by_scope() -> None:
    packed = wire.pack_plan(plan_for(tokens=5, credits=6), TENANT, 1234, 50)

    assert packed.window_keys == [TENANT.windows(""), TENANT.windows("project=p 1")]
    values = sequences.unpack(packed.argument)
    head, fields, checks = values[:12], values[12:19], values[19:]
    assert head == [1234, 4, 0, MAX_AMOUNT, 50, 5, 2, 2, 2, 2 * HOUR_MS, 1, 2 * MINUTE_MS]
    assert fields == [b"v", b"due", b"jobs~s:p 1", b"credits~b", b"rpm~w", b"rph~w", b"tpm~w"]
    assert [checks[at : at + 6] for at in range(0, len(checks), 6)] == [
        [4, 1, 1, 2, 0, 0],
        [5, 6, 6, MAX_AMOUNT, 0, 1],
        [3, 1, 1, 3, MINUTE_MS, 0],
        [3, 1, 1, 30, HOUR_MS, 0],
        [3, 5, 5, 100, MINUTE_MS, 0],
    ]


ROWS: Final = sequences.pack([1, 0, 0, 50, 6, 0, 2, 20, 0, 0, 0, 0, 100, 40, 41])
"""Three numbers for each of `LAB`'s checks, in the order of the scripts."""


def test_rows_come_back_in_the_plans_order() -> None:
    packed = wire.pack_plan(plan_for(), TENANT, 0, 50)

    assert packed.form.looks(ROWS, 0) == (
        Look(cap=3, used=2, held=0, reset_ms=20, wait_ms=0),
        Look(cap=2, used=1, held=1, reset_ms=-1, wait_ms=0),
        Look(cap=100, used=100, held=0, reset_ms=40, wait_ms=41),
        Look(cap=30, used=0, held=0, reset_ms=0, wait_ms=0),
        Look(cap=50, used=6, held=6, reset_ms=-1, wait_ms=0),
    )


def test_a_grant_adds_what_it_took_to_the_rows_of_before_it() -> None:
    """A window that was empty counts from now on; a shadow limit that did not fit took nothing."""
    plan = plan_for(tokens=5, credits=4)
    packed = wire.pack_plan(plan, TENANT, 0, 50)

    assert packed.form.looks(ROWS, 0, packed.form.taken(plan.units)) == (
        Look(cap=3, used=3, held=0, reset_ms=20, wait_ms=0),
        Look(cap=2, used=2, held=2, reset_ms=-1, wait_ms=0),
        Look(cap=100, used=100, held=0, reset_ms=40, wait_ms=41),
        Look(cap=30, used=1, held=0, reset_ms=HOUR_MS, wait_ms=0),
        Look(cap=50, used=10, held=10, reset_ms=-1, wait_ms=0),
    )


def test_what_only_asks_for_room_is_not_taken() -> None:
    plan = plan_for(policy(balance("credits", room=40), slots("jobs", 3, room=2), window("rpm", 9)), credits=7)

    assert wire.pack_plan(plan, TENANT, 0, 50).form.taken(plan.units) == (0, 0, 1)


def test_a_plan_without_checks_has_no_rows() -> None:
    packed = wire.pack_plan(plan_for(policy()), TENANT, 0, 50)

    assert packed.form.looks(b"", 0) == ()
    assert sequences.unpack(packed.argument) == [0, 4, 0, MAX_AMOUNT, 50, 0, 0, 0, b"v", b"due"]


def test_a_grant_remembers_what_may_be_given_back_or_settled() -> None:
    """Not the request that no release returns; what a shadow limit takes stands apart, since it may take nothing."""
    plan = plan_for(tokens=5, credits=6)

    request, shadows = map(sequences.unpack, wire.pack_reserve(plan, wire.pack_plan(plan, TENANT, 0, 50), TENANT, "h"))

    gated, hold_id, lease_ms, longest_ms, replay_ms, member, content = request
    assert (gated, hold_id, member) == (0, b"h", b"lab/acme")
    assert (lease_ms, longest_ms, replay_ms) == (
        plan.terms.lease_ms,
        plan.terms.longest_ms,
        plan.terms.replay_ms,
    )
    marks, lease_ms, tombstone_ms, _, *meters = sequences.unpack(content)
    assert marks == plan.fingerprint + plan.shape.figures_key
    assert (lease_ms, tombstone_ms) == (plan.terms.lease_ms, plan.terms.tombstone_ms)
    assert meters == [2, b"tokens", 5, -1, 0, b"credits", 6, -1, 0]
    count, takes, number, take = shadows
    flat = sequences.unpack(takes)
    assert count == 3
    assert [flat[at : at + 9] for at in range(0, len(flat), 9)] == [
        [4, 0, b"", b"jobs~s:p 1", 1, 0, 0, 1, 0],
        [3, 0, b"w:", b"rph~w", 1, 0, 0, 1, -HOUR_MS],
        [3, 1, b"w:project=p 1", b"tpm~w", 5, 0, 0, 1, MINUTE_MS],
    ]
    assert number == 2
    assert sequences.unpack(take) == [5, 2, b"", b"credits~b", 6, 0, 0, 1, 7]


def test_a_grant_without_shadow_takes_has_one_argument_which_ends_with_the_takes() -> None:
    plan = plan_for(policy(window("rpm", 3, shadow=True), slots("jobs", 2)))

    (request,) = wire.pack_reserve(plan, wire.pack_plan(plan, TENANT, 0, 50), TENANT, "h")

    content = sequences.unpack(request)[-1]
    assert sequences.unpack(content)[4:] == [0, 1, 4, 0, b"", b"jobs~s", 1, 0, 0, 1, 0]


def test_each_session_of_a_shape_remembers_how_long_it_may_last() -> None:
    terms = HoldTerms(longest_ms=HOUR_MS, timed=Timed(by="tokens", charge="credits", per_ms=MINUTE_MS))
    long = plan_for(policy(slots("jobs", 2), balance("credits"), terms=terms), tokens=10 * MINUTE_MS, credits=10)
    short = long._replace(units=(3 * MINUTE_MS, 3))

    contents = [
        sequences.unpack(wire.pack_reserve(plan, wire.pack_plan(plan, TENANT, 0, 50), TENANT, "s")[0])[-1]
        for plan in (long, short)
    ]

    lasting = [msgpack.unpackb(sequences.unpack(content)[3])[4] for content in contents]
    assert lasting == [10 * MINUTE_MS, 3 * MINUTE_MS]


def test_a_settle_says_in_which_form_it_tells_what_was_delivered() -> None:
    assert sequences.unpack(wire.pack_settle(9, "h", None, final=True)) == [9, b"h", 1, 0]
    assert sequences.unpack(wire.pack_settle(9, "h", {"a": 1, "b": 0}, final=False)) == [
        9,
        b"h",
        0,
        1,
        2,
        b"a",
        1,
        b"b",
        0,
    ]
    assert sequences.unpack(wire.pack_settle(9, "h", {}, final=True)) == [9, b"h", 1, 1, 0]
    assert sequences.unpack(wire.pack_settle(9, "h", Fraction(2, 3), final=True)) == [9, b"h", 1, 2, 2, 3]


def test_an_extend_numbers_meters_as_the_hold_has_them() -> None:
    raised = plan_for(tokens=5, credits=6)
    packed = wire.pack_plan(raised, TENANT, 0, 50)

    values = sequences.unpack(wire.pack_extend("h", {"credits": 2}, raised, packed, ["credits", "tokens"]))

    assert values[:10] == [b"h", 1, 0, 1, b"credits", 2, 2, b"tokens", 5, b"credits"]
    memos = values[11:]
    assert [memos[at : at + 3] for at in range(0, len(memos), 3)] == [
        [0, b"", 0],
        [1, b"", 7],
        [0, b"w:", MINUTE_MS],
        [0, b"w:", -HOUR_MS],
        [2, b"w:project=p 1", MINUTE_MS],
    ]


def test_a_renewal_alone_carries_no_plan() -> None:
    assert sequences.unpack(wire.pack_extend("h", {"tokens": 2}, None, None, ())) == [b"h", 0, 0, 1, b"tokens", 2, 0]


# accounts


ACCOUNT: Final = Account(
    plan="pro",
    created_at_ms=5,
    flags={"b": True, "a": False},
    overrides=(Override("rpm", 3, 9), Override("tpm", MAX_AMOUNT)),
    lifetime_purchased_usd_micros=MAX_AMOUNT,
    version=3,
)


def test_an_account_record_is_pinned() -> None:
    """Records outlive the server that wrote them."""
    assert records.account_record(ACCOUNT) == (
        b'{"created_at_ms":5,"flags":{"a":false,"b":true},"lifetime_purchased_usd_micros":9007199254740991,'
        b'"overrides":[["rpm",3,9],["tpm",9007199254740991,9007199254740991]],"plan":"pro","version":3}'
    )


def test_an_account_comes_back_from_its_record() -> None:
    assert records.account_of(records.account_record(ACCOUNT)) == ACCOUNT
    assert records.account_of(b"") is None


@pytest.mark.parametrize("record", [b"garbage", b"{}", b"[]", b"null", b'{"plan":"free"}', b"\xff"])
def test_an_account_that_cannot_be_read_is_corrupt(record: bytes) -> None:
    with pytest.raises(CorruptStateError, match="account"):
        records.account_of(record)


def test_an_account_write_is_packed_with_its_grants() -> None:
    write = AccountWrite(
        account=ACCOUNT,
        expected_version=2,
        grants={"c~b": 5, "d~b": -6},
        marks={"d~b": (20, 0)},
        limits_ms=7,
        write_id="w",
        fingerprint=b"\x00f",
    )

    head = [9, b"lab/t", 1, 2, records.account_record(ACCOUNT), b"w", b"\x00f", 8, 2]
    assert sequences.unpack(wire_money.pack_account_write(9, b"lab/t", write)) == [
        *head,
        *(b"c~b", 5, 1, FOREVER_MS, b"", 0, 0, b""),
        *(b"d~b", -6, 1, FOREVER_MS, b"", 0, 0, sequences.pack([20, 0])),
        0,
        0,
        0,
        7,
    ]
    nothing = [9, b"lab/t", 0, 0, b"", b"", b"", 8, 0, 0, 0, 0, FOREVER_MS]
    assert sequences.unpack(wire_money.pack_account_write(9, b"lab/t", AccountWrite())) == nothing


# holds


NOTE: Final[bytes] = msgpack.packb(["work", "v1", {"project": "p"}, {"a": {"credits": 4}}])
RECORD: Final = [1, 100, 200, 300, b"", b"0123456789abcdef<key", 60, 90, NOTE, 2]
METERS: Final = [b"tokens", 5, -1, 0, b"credits", 6, 0, 2]


def test_a_hold_comes_back_from_its_record() -> None:
    hold = records.hold_of("h", sequences.pack([*RECORD, *METERS, 0]))

    assert (hold.hold_id, hold.state, hold.fingerprint) == ("h", State.ACTIVE, b"0123456789abcdef")
    assert (hold.created_at_ms, hold.lease_ends_at_ms, hold.longest_ends_at_ms, hold.lease_ms) == (100, 300, 400, 60)
    assert hold.meters == {"tokens": MeterTotals(5, None, 0), "credits": MeterTotals(6, 0, 2)}
    assert (hold.note.action, hold.note.policy_version, hold.note.scope) == ("work", "v1", {"project": "p"})
    assert hold.note.item_prices == {"a": {"credits": 4}}


def test_a_tombstone_has_no_lease_times() -> None:
    hold = records.hold_of("h", sequences.pack([2, 100, 0, 0, b"", RECORD[5], 0, 0, NOTE, 2, *METERS, 0]))

    assert (hold.created_at_ms, hold.lease_ends_at_ms, hold.longest_ends_at_ms, hold.lease_ms) == (100, 0, 0, 0)


def test_the_meters_of_a_settle_come_back() -> None:
    assert records.meters_of(sequences.pack([2, *METERS])) == {
        "tokens": MeterTotals(5, None, 0),
        "credits": MeterTotals(6, 0, 2),
    }


@pytest.mark.parametrize("field", range(len(RECORD) + len(METERS)))
@pytest.mark.parametrize("garbage", [b"x", -7, 99, None, [1]])
def test_a_hold_that_cannot_be_read_is_corrupt_or_read_as_it_stands(field: int, garbage: object) -> None:
    """Whatever stands in any field: a hold or CorruptStateError, never another error."""
    values = [*RECORD, *METERS, 0]
    values[field] = garbage
    try:
        hold = records.hold_of("h", sequences.pack(values))
    except CorruptStateError as error:
        assert "'h'" in error.message  # noqa: PT017  # which of the two it is depends on the field
    else:
        assert hold.hold_id == "h"


@given(st.binary(max_size=200))
def test_no_record_makes_another_error(record: bytes) -> None:
    try:
        records.hold_of("h", record)
    except CorruptStateError as error:
        assert error.__cause__ is not None  # noqa: PT017  # a readable one is fine, too


# figures of a grant, told again


def granted_record(plan: Plan, figures: object = ROWS, marks: object = b"") -> bytes:
    """A record as a grant of the plan leaves it."""
    marks = marks or plan.fingerprint + plan.shape.figures_key
    return sequences.pack([1, 100, 200, 300, figures, marks, 60, 90, NOTE, 2, *METERS, 0])


def test_a_replay_tells_the_figures_of_the_grant() -> None:
    plan = plan_for(tokens=5, credits=4)
    packed = wire.pack_plan(plan, TENANT, 0, 50)

    looks = wire.replayed_looks(plan, granted_record(plan), 50)

    assert looks == packed.form.looks(ROWS, 0, packed.form.taken(plan.units))
    assert looks


def test_a_replay_tells_no_figures_that_mean_something_else_now() -> None:
    """Another policy, another value of a limit, or another content under the same id."""
    plan = plan_for(tokens=5, credits=4)
    record = granted_record(plan)
    *others, purse = LAB.limits
    raised = policy(window("rpm", 4), *others[1:], purse)
    newer = replace(LAB, version="newer")

    assert wire.replayed_looks(plan_for(raised, tokens=5, credits=4), record, 50) == ()
    assert wire.replayed_looks(plan_for(newer, tokens=5, credits=4), record, 50) == ()
    assert wire.replayed_looks(plan_for(tokens=6, credits=4), record, 50) == ()


@pytest.mark.parametrize(
    "figures", [b"x", b"", b"\xc1", ROWS[:-1], ROWS + b"\x01", sequences.pack([None] * 15), 7, None]
)
def test_figures_that_cannot_be_read_are_corrupt(figures: object) -> None:
    plan = plan_for(tokens=5, credits=4)

    with pytest.raises(CorruptStateError, match="figures"):
        wire.replayed_looks(plan, granted_record(plan, figures), 50)


@given(st.binary(max_size=200))
def test_no_record_makes_another_error_when_it_is_told_again(record: bytes) -> None:
    try:
        looks = wire.replayed_looks(plan_for(tokens=5), record, 50)
    except CorruptStateError as error:
        assert error.__cause__ is not None  # noqa: PT017  # a readable one is fine, too
    else:
        assert looks == ()
