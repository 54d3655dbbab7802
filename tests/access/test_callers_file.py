"""The file of callers: every fault is told with its file and line, and nothing half good is taken."""

import pytest

from server.access.callers import Callers
from server.access.callers_file import callers_of
from server.domain.errors import PermissionDeniedError, PolicyRejectedError, UnauthenticatedError
from server.domain.operation import TenantRef

METHODS = frozenset({"quota.v1.QuotaService/Settle", "quota.v1.QuotaService/Release", "/authorize"})
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""Of the token "test"."""

GOOD = f"""\
callers:
  - name: gateway
    tokens_sha256: [{HASH}]
    certificates: ["spiffe://prod/gateway", gateway.example]
    allow:
      - methods: [quota.v1.QuotaService/*]
        tenants: [acme, team-*]
      - methods: [quota.v1.QuotaService/Settle]
        tenants: ["*"]
        policies: [lab]
"""


def read(text: str, *, asks_certificates: bool = True) -> Callers:
    return callers_of(text, "callers.yaml", METHODS, asks_certificates=asks_certificates)


def covers(callers: Callers, method: str, tenant: str, policy: str = "lab") -> bool:
    rules = callers.who("test", []).allowed(method)
    return any(rule.covers(TenantRef(policy, tenant)) for rule in rules)


def test_a_caller_is_known_by_its_token_or_by_a_name_in_its_certificate() -> None:
    callers = read(GOOD)
    assert callers.who("test", []).name == "gateway"
    assert callers.who(None, ["spiffe://prod/gateway"]).name == "gateway"
    assert callers.who(None, ["unheard.of", "gateway.example"]).name == "gateway"


@pytest.mark.parametrize(
    ("token", "names", "said"),
    [
        (None, [], "neither a certificate nor a token"),
        ("guessed", ["gateway.example"], "no caller is known by the token"),
        (HASH, [], "no caller is known by the token"),
        (None, ["Gateway.example"], "'Gateway.example'"),
    ],
)
def test_whoever_shows_anything_else_is_nobody(token: str | None, names: list[str], said: str) -> None:
    with pytest.raises(UnauthenticatedError, match=said):
        read(GOOD).who(token, names)


def test_tenants_are_named_in_full_or_by_how_they_begin() -> None:
    callers = read(GOOD)
    assert covers(callers, "quota.v1.QuotaService/Release", "acme")
    assert covers(callers, "quota.v1.QuotaService/Release", "team-7")
    assert not covers(callers, "quota.v1.QuotaService/Release", "acme2")
    assert not covers(callers, "quota.v1.QuotaService/Release", "team")
    assert covers(callers, "quota.v1.QuotaService/Settle", "anybody")
    assert not covers(callers, "quota.v1.QuotaService/Settle", "anybody", "another-policy")


def test_a_method_that_no_rule_names_is_denied() -> None:
    with pytest.raises(PermissionDeniedError, match=r"'gateway' may not call /authorize"):
        read(GOOD).who("test", []).allowed("/authorize")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("name: gateway", "nane: gateway", "callers.yaml:2: callers[0]: 'name' is missing"),
        (HASH, "secret", "callers.yaml:3: callers[0].tokens_sha256[0]: 'secret'; expected a SHA-256 hash"),
        ("QuotaService/*", "QuotaServices/*", "callers.yaml:6: callers[0].allow[0].methods[0]: 'quota.v1.QuotaServi"),
        ("team-*", "te*am", "callers.yaml:7: callers[0].allow[0].tenants[1]: 'te*am'; a * stands at the end alone"),
        ("[acme, team-*]", "[]", "callers.yaml:7: callers[0].allow[0].tenants: a list; expected at least 1 entry"),
        ("        tenants: [acme, team-*]\n", "", "callers.yaml:6: callers[0].allow[0]: 'tenants' is missing"),
        ("callers:", "callers: &all", "callers.yaml:1: "),
    ],
)
def test_a_fault_is_told_with_its_line(old: str, new: str, fault: str) -> None:
    with pytest.raises(PolicyRejectedError) as caught:
        read(GOOD.replace(old, new, 1))
    assert caught.value.message.startswith(fault)


def test_what_tells_callers_apart_is_no_two_callers_own() -> None:
    twice = GOOD + GOOD.partition("\n")[2]
    with pytest.raises(PolicyRejectedError) as caught:
        read(twice)
    assert [line.partition(": ")[0] for line in caught.value.message.splitlines()] == [
        "callers.yaml:11",
        "callers.yaml:12",
        "callers.yaml:13",
        "callers.yaml:13",
    ]
    assert "callers[1].name: 'gateway' is at callers[0] too; keep one" in caught.value.message


def test_a_caller_that_nobody_can_show_to_be_is_a_fault() -> None:
    text = "callers: [{name: ghost, allow: [{methods: ['*'], tenants: ['*']}]}]"
    with pytest.raises(PolicyRejectedError, match="nobody can show to be this caller"):
        read(text)


def test_certificates_that_the_server_asks_nobody_for_are_a_fault() -> None:
    with pytest.raises(PolicyRejectedError, match=r"callers.yaml:4: .*asks nobody for a certificate.*--tls-client-ca"):
        read(GOOD, asks_certificates=False)
