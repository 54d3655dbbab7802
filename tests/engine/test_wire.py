"""What goes to the scripts and what comes back: positions, sizes, and records that cannot be read."""

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
from server.domain.policy import Policy
from server.domain.units import FOREVER_MS, MAX_AMOUNT
from server.engine import keys, wire, wire_money
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
    assert wire.unpack(wire.pack(values)) == values


def test_a_plan_is_packed_standing_cells_first_then_windows_by_scope() -> None:
    packed = wire.pack_plan(plan_for(tokens=5, credits=6), TENANT, 1234, 50)

    assert packed.window_keys == [TENANT.windows(""), TENANT.windows("project=p 1")]
    assert packed.form.order == [1, 4, 0, 3, 2]
    head, checks = wire.unpack(packed.argument)[:11], wire.unpack(packed.argument)[11:]
    assert head == [1234, 4, 0, MAX_AMOUNT, 50, 2, 2, 2, 2 * HOUR_MS, 1, 2 * MINUTE_MS]
    assert [checks[at : at + 7] for at in range(0, len(checks), 7)] == [
        [4, b"jobs~s:p 1", 1, 1, 2, 0, 0],
        [5, b"credits~b", 6, 6, MAX_AMOUNT, 0, 1],
        [3, b"rpm~w", 1, 1, 3, MINUTE_MS, 0],
        [3, b"rph~w", 1, 1, 30, HOUR_MS, 0],
        [3, b"tpm~w", 5, 5, 100, MINUTE_MS, 0],
    ]


def test_rows_come_back_in_the_plans_order() -> None:
    packed = wire.pack_plan(plan_for(), TENANT, 0, 50)
    rows = msgpack.packb([number for row in range(5) for number in (row, 0, 0, 0, 0)])

    assert [look.cap for look in packed.looks(rows)] == [2, 0, 4, 3, 1]


def test_a_plan_without_checks_has_no_rows() -> None:
    packed = wire.pack_plan(plan_for(policy()), TENANT, 0, 50)

    assert packed.looks(b"\xdc\x00\x00") == ()
    assert wire.unpack(packed.argument) == [0, 4, 0, MAX_AMOUNT, 50, 0, 0]


def test_a_grant_remembers_what_may_be_given_back_or_settled() -> None:
    """Not the request that no release returns; what a shadow limit takes stands apart, since it may take nothing."""
    plan = plan_for(tokens=5, credits=6)

    request, shadows = map(wire.unpack, wire.pack_reserve(plan, wire.pack_plan(plan, TENANT, 0, 50), TENANT, "h"))

    gated, hold_id, lease_ms, longest_ms, replay_ms, member, content, count, takes = request
    assert (gated, hold_id, member, count) == (0, b"h", b"lab/acme", 3)
    assert (lease_ms, longest_ms, replay_ms) == (
        plan.terms.lease_ms,
        plan.terms.longest_ms,
        plan.terms.replay_ms,
    )
    assert wire.unpack(content)[-8:] == [b"tokens", 5, -1, 0, b"credits", 6, -1, 0]
    flat = wire.unpack(takes)
    assert [flat[at : at + 9] for at in range(0, len(flat), 9)] == [
        [4, 0, b"", b"jobs~s:p 1", 1, 0, 0, 1, 0],
        [3, 0, b"/", b"rph~w", 1, 0, 0, 1, -HOUR_MS],
        [3, 1, b"/project=p 1", b"tpm~w", 5, 0, 0, 1, MINUTE_MS],
    ]
    number, take = shadows
    assert number == 2
    assert wire.unpack(take) == [5, 2, b"", b"credits~b", 6, 0, 0, 1, 7]


def test_a_grant_without_shadow_takes_has_one_argument() -> None:
    plan = plan_for(policy(window("rpm", 3, shadow=True), slots("jobs", 2)))

    assert len(wire.pack_reserve(plan, wire.pack_plan(plan, TENANT, 0, 50), TENANT, "h")) == 1


def test_a_settle_says_in_which_form_it_tells_what_was_delivered() -> None:
    assert wire.unpack(wire.pack_settle(9, "h", None, final=True)) == [9, b"h", 1, 0]
    assert wire.unpack(wire.pack_settle(9, "h", {"a": 1, "b": 0}, final=False)) == [9, b"h", 0, 1, 2, b"a", 1, b"b", 0]
    assert wire.unpack(wire.pack_settle(9, "h", {}, final=True)) == [9, b"h", 1, 1, 0]
    assert wire.unpack(wire.pack_settle(9, "h", Fraction(2, 3), final=True)) == [9, b"h", 1, 2, 2, 3]


def test_an_extend_numbers_meters_as_the_hold_has_them() -> None:
    raised = plan_for(tokens=5, credits=6)
    packed = wire.pack_plan(raised, TENANT, 0, 50)

    values = wire.unpack(wire.pack_extend("h", {"credits": 2}, raised, packed, ["credits", "tokens"]))

    assert values[:10] == [b"h", 1, 0, 1, b"credits", 2, 2, b"tokens", 5, b"credits"]
    memos = values[11:]
    assert [memos[at : at + 3] for at in range(0, len(memos), 3)] == [
        [0, b"", 0],
        [1, b"", 7],
        [0, b"/", MINUTE_MS],
        [0, b"/", -HOUR_MS],
        [2, b"/project=p 1", MINUTE_MS],
    ]


def test_a_renewal_alone_carries_no_plan() -> None:
    assert wire.unpack(wire.pack_extend("h", {"tokens": 2}, None, None, ())) == [b"h", 0, 0, 1, b"tokens", 2, 0]


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
    assert wire.account_record(ACCOUNT) == (
        b'{"created_at_ms":5,"flags":{"a":false,"b":true},"lifetime_purchased_usd_micros":9007199254740991,'
        b'"overrides":[["rpm",3,9],["tpm",9007199254740991,9007199254740991]],"plan":"pro","version":3}'
    )


def test_an_account_comes_back_from_its_record() -> None:
    assert wire.account_of(wire.account_record(ACCOUNT)) == ACCOUNT
    assert wire.account_of(b"") is None


@pytest.mark.parametrize("record", [b"garbage", b"{}", b"[]", b"null", b'{"plan":"free"}', b"\xff"])
def test_an_account_that_cannot_be_read_is_corrupt(record: bytes) -> None:
    with pytest.raises(CorruptStateError, match="account"):
        wire.account_of(record)


def test_an_account_write_is_packed_with_its_grants() -> None:
    write = AccountWrite(account=ACCOUNT, expected_version=2, grants={"c~b": 5}, write_id="w", fingerprint=b"\x00f")

    head = [9, b"lab/t", 1, 2, wire.account_record(ACCOUNT), b"w", b"\x00f", 8, 1]
    assert wire.unpack(wire_money.pack_account_write(9, b"lab/t", write)) == [
        *head,
        *(b"c~b", 5, 1, FOREVER_MS, b"", 0, 0),
        0,
    ]
    assert wire.unpack(wire_money.pack_account_write(9, b"lab/t", AccountWrite())) == [
        9,
        b"lab/t",
        0,
        0,
        b"",
        b"",
        b"",
        8,
        0,
        0,
    ]


# holds


NOTE: Final[bytes] = msgpack.packb(["work", "v1", {"project": "p"}, [3, 1], {"a": {"credits": 4}}])
ROWS: Final[bytes] = msgpack.packb([10, 1, 2, 3, 4, 20, 5, 6, 7, 8])
RECORD: Final = [1, 100, 200, 300, ROWS, b"0123456789abcdef", 60, 90, NOTE, 2]
METERS: Final = [b"tokens", 5, -1, 0, b"credits", 6, 0, 2]


def test_a_hold_comes_back_from_its_record() -> None:
    hold = wire.hold_of("h", wire.pack([*RECORD, *METERS, 0]))

    assert (hold.hold_id, hold.state, hold.fingerprint) == ("h", State.ACTIVE, b"0123456789abcdef")
    assert (hold.created_at_ms, hold.lease_ends_at_ms, hold.longest_ends_at_ms, hold.lease_ms) == (100, 200, 300, 60)
    assert hold.meters == {"tokens": MeterTotals(5, None, 0), "credits": MeterTotals(6, 0, 2)}
    assert hold.looks == {3: Look(10, 1, 2, 3, 4), 1: Look(20, 5, 6, 7, 8)}
    assert (hold.note.action, hold.note.policy_version, hold.note.scope) == ("work", "v1", {"project": "p"})
    assert hold.note.item_prices == {"a": {"credits": 4}}


@pytest.mark.parametrize("field", range(len(RECORD) + len(METERS)))
@pytest.mark.parametrize("garbage", [b"x", -7, 99, None, [1]])
def test_a_hold_that_cannot_be_read_is_corrupt_or_read_as_it_stands(field: int, garbage: object) -> None:
    """Whatever stands in any field: a hold or CorruptStateError, never another error."""
    values = [*RECORD, *METERS, 0]
    values[field] = garbage
    try:
        hold = wire.hold_of("h", wire.pack(values))
    except CorruptStateError as error:
        assert "'h'" in error.message  # noqa: PT017  # which of the two it is depends on the field
    else:
        assert hold.hold_id == "h"


@given(st.binary(max_size=200))
def test_no_record_makes_another_error(record: bytes) -> None:
    try:
        wire.hold_of("h", record)
    except CorruptStateError as error:
        assert error.__cause__ is not None  # noqa: PT017  # a readable one is fine, too
