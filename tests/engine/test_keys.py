"""Keys: the exact strings that stores out there hold, one slot per tenant, no two things under one name."""

from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.operation import TenantRef
from server.domain.plan import CheckForm
from server.engine import keys
from server.engine.scripts import LUA, inline_constants
from tests.policies_for_tests import slots, window
from tests.stores import RunningStore

PLAIN: Final = TenantRef("credit-gate", "acme")
ODD: Final = TenantRef("p/1", "a{b}:c/d%e ü,=\n")
texts = st.text(min_size=1, max_size=40).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


def check(values: Mapping[str, str], cell: str = "jobs~abc") -> CheckForm:
    limit = slots("jobs", 1, scope=tuple(values))
    object.__setattr__(limit, "cell", cell)
    return CheckForm(0, limit, tuple(values.values()), 1, settles=False, meter=-1, fixed=1, asks_room=False)


def test_the_keys_of_a_tenant_are_pinned() -> None:
    """Changing one of these strings forgets every balance out there."""
    tenant = keys.tenant_keys(PLAIN)

    assert tenant == keys.TenantKeys(
        prefix=b"hg:{credit-gate/acme}:",
        cells=b"hg:{credit-gate/acme}:cells",
        account=b"hg:{credit-gate/acme}:acct",
        ids=b"hg:{credit-gate/acme}:ids",
        ledger=b"hg:{credit-gate/acme}:ledger",
        due=b"hg:{credit-gate/acme}:due",
        due_index=b"hg:{4826}:due",
        member=b"credit-gate/acme",
    )
    assert tenant.hold("r-1") == b"hg:{credit-gate/acme}:h:r-1"
    assert tenant.windows("") == b"hg:{credit-gate/acme}:w:"
    assert tenant.windows("project=p") == b"hg:{credit-gate/acme}:w:project=p"
    assert (tenant.notes, tenant.told) == (b"hg:{credit-gate/acme}:note", b"hg:{credit-gate/acme}:told")
    assert tenant.noted == b"hg:{4826}:noted"
    assert tenant.noted in set(keys.noted_keys())
    assert keys.EPOCH_KEY == b"hg:epoch"


def test_what_a_name_could_spoil_is_encoded() -> None:
    tenant = keys.tenant_keys(ODD)

    assert tenant.prefix == b"hg:{p%2F1/a%7Bb%7D%3Ac%2Fd%25e %C3%BC%2C%3D%0A}:"
    assert keys.tenant_of(tenant.member) == ODD


def test_scopes_and_fields_are_pinned() -> None:
    both = check({"project": "p 1", "model": "a,b=c:d"})

    assert keys.scope_text(both) == "project=p 1,model=a%2Cb%3Dc%3Ad"
    assert keys.standing_field(both) == "jobs~abc:p 1:a%2Cb%3Dc%3Ad"
    assert keys.scope_text(check({})) == ""
    assert keys.standing_field(check({})) == "jobs~abc"


@given(texts, texts)
def test_a_member_of_the_index_names_its_tenant(policy: str, tenant: str) -> None:
    ref = TenantRef(policy, tenant)

    assert keys.tenant_of(keys.tenant_keys(ref).member) == ref


@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=2, unique=True))
def test_different_tenants_share_no_key(pair: list[tuple[str, str]]) -> None:
    one, other = (keys.tenant_keys(TenantRef(*names)) for names in pair)

    assert one.prefix != other.prefix
    assert not one.prefix.startswith(other.prefix)


@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=2, unique=True))
def test_different_scopes_share_no_key_and_no_field(pair: list[tuple[str, str]]) -> None:
    one, other = (check({"project": project, "model": model}) for project, model in pair)

    assert keys.scope_text(one) != keys.scope_text(other)
    assert keys.standing_field(one) != keys.standing_field(other)


def test_a_fields_name_is_never_one_of_the_heads() -> None:
    """The cells' hash also has the account's version and the earliest lease end."""
    limit = window("v", 1)

    assert "~" in limit.cell
    assert keys.standing_field(check({}, cell="due~abc")) == "due~abc"


def test_there_is_one_index_key_for_each_slot() -> None:
    assert len(set(keys.index_keys())) == keys.SLOTS == 16384


# on a real cluster


@pytest.mark.parametrize("ref", [PLAIN, ODD, TenantRef("a", "}{"), TenantRef("a", "1"), TenantRef("x" * 64, "y" * 128)])
def test_everything_of_a_tenant_is_in_one_slot(ref: TenantRef, cluster: RunningStore) -> None:
    tenant = keys.tenant_keys(ref)
    all_keys = [*tenant[1:7], tenant.hold("h"), tenant.hold("}{"), tenant.windows("project={x}")]
    all_keys += [tenant.notes, tenant.told, tenant.noted, tenant.acts]
    built = ("grants", "trimmed", "alloc", "pools", "q:jobs~}{", "u:d20522", "u:i586")  # by lua/include/keys.lua
    all_keys += [tenant.prefix + name.encode() for name in built]

    slots_of = {cluster.command("CLUSTER", "KEYSLOT", key) for key in all_keys}

    assert len(slots_of) == 1


@pytest.mark.parametrize("slot", [0, 1, 8191, 12345, 16383])
def test_an_index_key_is_in_its_slot(slot: int, cluster: RunningStore) -> None:
    assert cluster.command("CLUSTER", "KEYSLOT", keys.index_key(slot)) == slot


@pytest.mark.parametrize("ref", [PLAIN, ODD])
@pytest.mark.parametrize("hold_id", ["r-1", "a}b{c", "1e5"])
def test_scripts_build_the_same_keys(ref: TenantRef, hold_id: str, valkey: RunningStore) -> None:
    tenant = keys.tenant_keys(ref)
    include = (LUA / "include" / "keys.lua").read_text()
    built = "tenant_key('h:' .. ARGV[1]), tenant_key('w:' .. ARGV[2]), tenant_key('w:'), NOTED_KEY, MEMBER"
    source = inline_constants(include + f"return {{ {built} }}")

    found = valkey.command("EVAL", source, 4, tenant.cells, "-", "-", tenant.due_index, hold_id, "project=p")

    holds_and_windows = [tenant.hold(hold_id), tenant.windows("project=p"), tenant.windows("")]
    assert found == [*holds_and_windows, tenant.noted, tenant.member]
