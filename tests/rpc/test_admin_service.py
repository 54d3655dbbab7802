"""The control plane over the wire."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from grpc import StatusCode, aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import quota_service_pb2
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import CheckAndReserveRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.domain.units import MAX_AMOUNT
from tests.rpc.conftest import NOON_MS, POLICY, MakeSettings
from tests.rpc.faults import fault_of


async def test_an_account_comes_back_as_it_was_put(operator: AdminServiceStub) -> None:
    account = admin.Account(
        plan="pro",
        created_at_ms=NOON_MS - 1,
        flags={"suspended": False, "vip": True},
        overrides=[
            admin.Override(limit_id="rpm", value=7),
            admin.Override(limit_id="jobs", value=9, expires_at_ms=NOON_MS + 1),
        ],
        lifetime_purchased_usd_micros=5_000_000,
    )
    put = await operator.PutAccount(admin.PutAccountRequest(tenant="acme", account=account))
    assert put.account.version == 1
    got = await operator.GetAccount(admin.GetAccountRequest(policy="lab", tenant="acme"))
    assert got.account == put.account
    account.version = 1
    assert got.account == account


async def test_a_write_with_an_old_version_is_aborted(operator: AdminServiceStub, tenant: str) -> None:
    account = admin.Account(plan="pro")
    update = admin.PutAccountRequest(tenant=tenant, account=account, expected_version=1)
    assert (await operator.PutAccount(update)).account.version == 2
    account.plan = "free"
    fault = await fault_of(
        operator.PutAccount(admin.PutAccountRequest(tenant=tenant, account=account, expected_version=1))
    )
    assert (fault.status, fault.reason) == (StatusCode.ABORTED, "ACCOUNT_CHANGED")
    assert fault.metadata == {"expected_version": "1", "version": "2"}
    assert fault.retry_after_ms is not None


async def test_an_account_that_nobody_put_is_not_found(operator: AdminServiceStub) -> None:
    fault = await fault_of(operator.GetAccount(admin.GetAccountRequest(tenant="nobody")))
    assert (fault.status, fault.reason) == (StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")


async def test_a_purchase_and_a_grant_count_once(
    operator: AdminServiceStub, quota: QuotaServiceStub, tenant: str
) -> None:
    purchase = admin.RecordPurchaseRequest(
        tenant=tenant, purchase_id="pay-1", face_value_usd_micros=5_000_000, amounts={"credits": 50}
    )
    first, again = await operator.RecordPurchase(purchase), await operator.RecordPurchase(purchase)
    assert (first.applied, again.applied) == (True, False)
    assert first.account.lifetime_purchased_usd_micros == again.account.lifetime_purchased_usd_micros == 5_000_000
    grant = admin.CreateGrantRequest(tenant=tenant, grant_id="promo", amounts={"credits": 7})
    assert [(await operator.CreateGrant(grant)).applied for _ in range(2)] == [True, False]
    usage = await quota.GetUsage(quota_service_pb2.GetUsageRequest(tenant=tenant))
    assert {limit.id: limit.remaining for limit in usage.limits}["credits"] == 157
    grant.amounts["credits"] = 8
    fault = await fault_of(operator.CreateGrant(grant))
    assert (fault.status, fault.reason) == (StatusCode.ALREADY_EXISTS, "ID_REUSED")


async def test_an_import_brings_rows_in_each_as_if_alone(operator: AdminServiceStub) -> None:
    def row(tenant: str, plan: str) -> admin.ImportRow:
        return admin.ImportRow(
            tenant=tenant, account=admin.Account(plan=plan), import_id=f"row-{tenant}", balances={"credits": 5}
        )

    request = admin.ImportBalancesRequest(rows=[row("a", "free"), row("b", "gold"), row("c", "pro")])
    results = (await operator.ImportBalances(request)).results
    assert [(result.tenant, result.applied) for result in results] == [("a", True), ("b", False), ("c", True)]
    assert "gold" in results[1].error
    again = (await operator.ImportBalances(request)).results
    assert [result.applied for result in again] == [False, False, False]


async def test_holds_are_listed_by_page_shown_and_released(
    operator: AdminServiceStub, quota: QuotaServiceStub, tenant: str
) -> None:
    for name in ("r-1", "r-2", "r-3"):
        await quota.CheckAndReserve(
            CheckAndReserveRequest(
                tenant=tenant, request_id=name, action="work", scope={"project": name}, amounts={"credits": 2}
            )
        )
    first = await operator.ListHolds(admin.ListHoldsRequest(tenant=tenant, page_size=2))
    rest = await operator.ListHolds(
        admin.ListHoldsRequest(tenant=tenant, page_size=2, page_token=first.next_page_token)
    )
    assert [[hold.hold_id for hold in page.holds] for page in (first, rest)] == [["r-1", "r-2"], ["r-3"]]
    assert rest.next_page_token == ""
    hold = (await operator.GetHold(admin.GetHoldRequest(tenant=tenant, hold_id="r-2"))).hold
    assert hold == first.holds[1]
    assert (hold.state, hold.action, dict(hold.scope)) == (
        quota_service_pb2.HOLD_STATE_ACTIVE,
        "work",
        {"project": "r-2"},
    )
    assert (hold.created_at_ms, hold.lease_ends_at_ms) == (NOON_MS, NOON_MS + 120_000)
    assert hold.longest_ends_at_ms == NOON_MS + 3_600_000
    assert [(meter.meter, meter.reserved, meter.used) for meter in hold.meters] == [("credits", 2, 0)]
    force = admin.ForceReleaseRequest(tenant=tenant, hold_id="r-2")
    released = await operator.ForceRelease(force)
    assert (released.state, released.applied) == (quota_service_pb2.HOLD_STATE_RELEASED, True)
    assert not (await operator.ForceRelease(force)).applied


PUT: Final = admin.PutAccountRequest
FULL: Final = {f"flag-{number}": True for number in range(65)}
BAD: Final[Mapping[str, tuple[str, Message]]] = {
    "account": ("PutAccount", PUT(tenant="acme")),
    "tenant": ("PutAccount", PUT(account=admin.Account(plan="free"))),
    "expected_version": (
        "PutAccount",
        PUT(tenant="acme", account=admin.Account(plan="free"), expected_version=-1),
    ),
    "account.plan": ("PutAccount", PUT(tenant="acme", account=admin.Account(plan="gold"))),
    "account.flags": ("PutAccount", PUT(tenant="acme", account=admin.Account(plan="free", flags=FULL))),
    "account.overrides": (
        "PutAccount",
        PUT(tenant="acme", account=admin.Account(plan="free", overrides=[admin.Override(limit_id="rpm")] * 65)),
    ),
    "account.overrides[0].limit_id": (
        "PutAccount",
        PUT(tenant="acme", account=admin.Account(plan="free", overrides=[admin.Override(limit_id="rmp")])),
    ),
    "account.overrides[0].expires_at_ms": (
        "PutAccount",
        PUT(
            tenant="acme",
            account=admin.Account(plan="free", overrides=[admin.Override(limit_id="rpm", expires_at_ms=-1)]),
        ),
    ),
    "account.lifetime_purchased_usd_micros": (
        "PutAccount",
        PUT(tenant="acme", account=admin.Account(plan="free", lifetime_purchased_usd_micros=MAX_AMOUNT + 1)),
    ),
    "opening[credits]": (
        "PutAccount",
        PUT(tenant="acme", account=admin.Account(plan="free"), opening={"credits": -1}),
    ),
    "purchase_id": ("RecordPurchase", admin.RecordPurchaseRequest(tenant="acme")),
    "grant_id": ("CreateGrant", admin.CreateGrantRequest(tenant="acme")),
    "amounts[credits]": (
        "CreateGrant",
        admin.CreateGrantRequest(tenant="acme", grant_id="g", amounts={"credits": -1}),
    ),
    "rows": ("ImportBalances", admin.ImportBalancesRequest(rows=[admin.ImportRow()] * 1001)),
    "rows[0].account": ("ImportBalances", admin.ImportBalancesRequest(rows=[admin.ImportRow(tenant="a")])),
    "hold_id": ("ForceRelease", admin.ForceReleaseRequest(tenant="acme")),
    "page_size": ("ListHolds", admin.ListHoldsRequest(tenant="acme", page_size=1001)),
    "page_token": (
        "ListHolds",
        admin.ListHoldsRequest(tenant="acme", page_token="nonsense"),  # noqa: S106  # names a page, is no secret
    ),
    "policy": ("GetPolicy", admin.GetPolicyRequest(policy="nowhere")),
}


@pytest.mark.parametrize("token", ["/x", "\u00b2/x", "9" * 20 + "/x", "-1/x", "1"])
async def test_a_page_of_holds_begins_where_a_token_says_or_not_at_all(operator: AdminServiceStub, token: str) -> None:
    fault = await fault_of(operator.ListHolds(admin.ListHoldsRequest(tenant="acme", page_token=token)))
    assert (fault.status, list(fault.violations)) == (StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize("field", BAD)
async def test_a_bad_field_is_named(operator: AdminServiceStub, field: str) -> None:
    method, request = BAD[field]
    call: Any = getattr(operator, method)
    fault = await fault_of(call(request))
    assert (fault.status, fault.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(fault.violations) == [field]


async def test_the_policy_is_shown_with_its_version(operator: AdminServiceStub) -> None:
    policy = await operator.GetPolicy(admin.GetPolicyRequest())
    assert (policy.policy, policy.text) == ("lab", POLICY.read_text())
    checked = await operator.ValidatePolicy(admin.ValidatePolicyRequest(text=policy.text))
    assert (list(checked.errors), checked.version) == ([], policy.version)


async def test_a_bad_policy_text_is_explained_by_line(operator: AdminServiceStub) -> None:
    text = POLICY.read_text().replace("window: 60s", "window: 60 parsecs")
    checked = await operator.ValidatePolicy(admin.ValidatePolicyRequest(text=text))
    assert checked.version == ""
    line = next(number for number, said in enumerate(text.splitlines(), 1) if "parsecs" in said)
    assert any(f"{line}" in error and "parsecs" in error for error in checked.errors)


async def test_a_reload_takes_a_good_file_and_never_a_bad_one(make_settings: MakeSettings, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(POLICY.read_text())
    async with running(make_settings(policies=(path,))) as app, aio.insecure_channel(app.address) as channel:
        operator = AdminServiceStub(channel)
        before = (await operator.GetPolicy(admin.GetPolicyRequest())).version
        path.write_text(POLICY.read_text().replace("limit: 2", "limit: 3"))
        after = (await operator.ReloadPolicy(admin.ReloadPolicyRequest())).versions["lab"]
        assert after != before
        path.write_text("policy: lab\nlimits: 7\n")
        fault = await fault_of(operator.ReloadPolicy(admin.ReloadPolicyRequest()))
        assert (fault.status, fault.reason) == (StatusCode.FAILED_PRECONDITION, "POLICY_REJECTED")
        assert f"{path.name}:2" in fault.message
        assert (await operator.GetPolicy(admin.GetPolicyRequest())).version == after
