"""The data plane over the wire: what is answered, what is an error, and which field was wrong."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import pytest
from grpc import StatusCode, aio
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import decision_pb2, quota_service_pb2
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2 import (
    MODE_BEST_EFFORT,
    CheckAndReserveRequest,
    DeliveredItems,
    EstimateRequest,
    ExtendRequest,
    Flexible,
    Fraction,
    GetLimitsRequest,
    GetUsageRequest,
    Item,
    ReleaseRequest,
    SettleRequest,
    Usage,
)
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.domain.units import MAX_AMOUNT, MAX_ITEMS
from tests.rpc.conftest import NOON_MS, set_time
from tests.rpc.faults import fault_of

LONG: Final = "x" * 129


def work(tenant: str, request_id: str = "", **more: Any) -> CheckAndReserveRequest:  # noqa: ANN401  # any field
    """One unit of work for project p1, of 40 credits unless said otherwise."""
    fields = {"action": "work", "scope": {"project": "p1"}, "amounts": {"credits": 40}, **more}
    return CheckAndReserveRequest(tenant=tenant, request_id=request_id, **fields)


async def test_a_grant_names_its_hold_its_lease_and_every_limit(quota: QuotaServiceStub, tenant: str) -> None:
    decision = (await quota.CheckAndReserve(work(tenant, "r-1"))).decision
    assert decision.outcome == decision_pb2.OUTCOME_GRANTED
    assert (decision.hold_id, decision.expires_in_ms, decision.renew_after_ms) == ("r-1", 120_000, 40_000)
    assert dict(decision.amounts) == {"credits": 40}
    assert not decision.HasField("refusal")
    assert decision.policy_version
    frames, suspended, rpm, jobs, credit = decision.limits
    assert (frames.kind, frames.limit, frames.used) == (decision_pb2.LIMIT_KIND_GUARD, 1000, 0)
    assert (suspended.kind, suspended.HasField("limit")) == (decision_pb2.LIMIT_KIND_GATE, False)
    assert (rpm.limit, rpm.used, rpm.remaining, rpm.reset_after_ms) == (5, 1, 4, 60_000)
    assert (jobs.limit, jobs.used, jobs.held, dict(jobs.scope)) == (2, 1, 1, {"project": "p1"})
    assert not jobs.HasField("reset_after_ms")
    assert (credit.limit, credit.used, credit.held, credit.remaining) == (100, 40, 40, 60)


async def test_a_refusal_is_an_answer_with_the_systems_own_envelope(quota: QuotaServiceStub, tenant: str) -> None:
    decision = (await quota.CheckAndReserve(work(tenant, "r-1", amounts={"credits": 101}))).decision
    assert decision.outcome == decision_pb2.OUTCOME_REFUSED
    assert decision.hold_id == ""
    refusal = decision.refusal
    assert (refusal.code, refusal.http_status, refusal.limit_id) == ("insufficient_credits", 402, "credits")
    assert (refusal.retryable, refusal.HasField("retry_after_ms")) == (False, False)
    assert dict(refusal.details) == {"needed": 101, "have": 100, "plan": "free"}
    assert [limit.id for limit in decision.limits if limit.blocking] == ["credits"]
    assert decision.http.status == 402
    assert orjson.loads(decision.http.body) == {
        "error": {
            "type": "billing_error",
            "code": "insufficient_credits",
            "message": "Need 101 credits, you have 100.",
            "needed": 101,
            "have": 100,
            "plan": "free",
        }
    }


async def test_a_window_says_how_long_to_wait_and_keeps_its_word(
    quota: QuotaServiceStub, channel: aio.Channel, tenant: str
) -> None:
    request = CheckAndReserveRequest(tenant=tenant, action="poll")
    for _ in range(5):
        assert (await quota.CheckAndReserve(request)).decision.outcome == decision_pb2.OUTCOME_GRANTED
    await set_time(channel, NOON_MS + 20_000)
    refused = (await quota.CheckAndReserve(request)).decision
    assert (refused.refusal.retry_after_ms, refused.refusal.estimated) == (40_000, False)
    assert refused.http.headers["Retry-After"] == "40"
    await set_time(channel, NOON_MS + 20_000 + refused.refusal.retry_after_ms)
    assert (await quota.CheckAndReserve(request)).decision.outcome == decision_pb2.OUTCOME_GRANTED


async def test_a_full_pool_gives_an_estimate(quota: QuotaServiceStub, tenant: str) -> None:
    for number in range(2):
        await quota.CheckAndReserve(work(tenant, f"r-{number}", amounts={}))
    refusal = (await quota.CheckAndReserve(work(tenant, "r-3", amounts={}))).decision.refusal
    assert (refusal.code, refusal.retryable, refusal.estimated) == ("busy", True, True)
    assert refusal.retry_after_ms == 15_000


async def test_a_repeat_gets_the_first_answer_again(quota: QuotaServiceStub, tenant: str) -> None:
    first = (await quota.CheckAndReserve(work(tenant, "r-1"))).decision
    again = (await quota.CheckAndReserve(work(tenant, "r-1"))).decision
    assert again.replayed
    again.replayed = False
    assert again == first
    fault = await fault_of(quota.CheckAndReserve(work(tenant, "r-1", amounts={"credits": 41})))
    assert (fault.status, fault.reason) == (StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert fault.metadata == {"differs": "amounts"}


async def test_a_check_takes_nothing(quota: QuotaServiceStub, tenant: str) -> None:
    check = work(tenant, "r-1", mode=quota_service_pb2.MODE_CHECK_ONLY)
    decision = (await quota.CheckAndReserve(check)).decision
    assert (decision.outcome, decision.hold_id) == (decision_pb2.OUTCOME_GRANTED, "")
    usage = await quota.GetUsage(GetUsageRequest(tenant=tenant))
    assert [limit.used for limit in usage.limits] == [0] * len(usage.limits)


async def reserved(quota: QuotaServiceStub, tenant: str) -> str:
    """The hold of two clips, of 3 and 6 credits."""
    items = [
        Item(id="a", product="clip", quantity={"frames": 10}),
        Item(id="b", product="clip", quantity={"frames": 20}),
    ]
    decision = (await quota.CheckAndReserve(work(tenant, "r-1", amounts={}, items=items))).decision
    assert decision.amounts["credits"] == 9
    return decision.hold_id


@pytest.mark.parametrize(
    ("delivered", "used"),
    [
        pytest.param({}, 9, id="nothing said: as reserved"),
        pytest.param({"usage": Usage(used={"credits": 4})}, 4, id="totals"),
        pytest.param({"fraction": Fraction(delivered=1, reserved=2)}, 4, id="a share, rounded down"),
        pytest.param({"fraction": Fraction(delivered=0, reserved=2)}, 0, id="nothing"),
        pytest.param({"items": DeliveredItems(ids=["b"])}, 6, id="items"),
        pytest.param({"items": DeliveredItems()}, 0, id="no item"),
    ],
)
async def test_a_settle_charges_what_was_delivered(
    quota: QuotaServiceStub, tenant: str, delivered: dict[str, Any], used: int
) -> None:
    hold_id = await reserved(quota, tenant)
    settled = await quota.Settle(SettleRequest(tenant=tenant, hold_id=hold_id, **delivered))
    assert (settled.state, settled.applied) == (quota_service_pb2.HOLD_STATE_SETTLED, True)
    credit = next(meter for meter in settled.meters if meter.meter == "credits")
    assert (credit.reserved, credit.used, credit.uncollected) == (9, used, 0)
    again = await quota.Settle(SettleRequest(tenant=tenant, hold_id=hold_id, **delivered))
    assert (again.state, again.applied, again.meters) == (settled.state, False, settled.meters)


async def test_a_settle_that_is_not_final_keeps_the_hold_open(quota: QuotaServiceStub, tenant: str) -> None:
    hold_id = await reserved(quota, tenant)
    report = SettleRequest(tenant=tenant, hold_id=hold_id, usage=Usage(used={"credits": 5}), final=False)
    reported = await quota.Settle(report)
    assert (reported.state, reported.applied) == (quota_service_pb2.HOLD_STATE_ACTIVE, True)
    final = SettleRequest(tenant=tenant, hold_id=hold_id, usage=Usage(used={"credits": 4}), final=True)
    fault = await fault_of(quota.Settle(final))
    assert (fault.status, fault.reason) == (StatusCode.FAILED_PRECONDITION, "TOTAL_DECREASED")
    assert fault.metadata["used.credits"] == "5"


async def test_a_release_gives_back_and_its_repeat_says_so(quota: QuotaServiceStub, tenant: str) -> None:
    hold_id = await reserved(quota, tenant)
    release = ReleaseRequest(tenant=tenant, hold_id=hold_id)
    first, again = await quota.Release(release), await quota.Release(release)
    assert first.state == again.state == quota_service_pb2.HOLD_STATE_RELEASED
    assert (first.applied, again.applied) == (True, False)
    fault = await fault_of(quota.Settle(SettleRequest(tenant=tenant, hold_id=hold_id)))
    assert (fault.status, fault.reason) == (StatusCode.FAILED_PRECONDITION, "HOLD_STATE")
    assert fault.metadata["state"] == "RELEASED"


async def test_an_extend_renews_raises_and_refuses_a_raise_that_does_not_fit(
    quota: QuotaServiceStub, channel: aio.Channel, tenant: str
) -> None:
    await quota.CheckAndReserve(work(tenant, "r-1"))
    await set_time(channel, NOON_MS + 60_000)
    raised = (await quota.Extend(ExtendRequest(tenant=tenant, hold_id="r-1", amounts={"credits": 90}))).decision
    assert (raised.outcome, raised.expires_in_ms) == (decision_pb2.OUTCOME_GRANTED, 120_000)
    assert raised.amounts["credits"] == 90
    refused = (await quota.Extend(ExtendRequest(tenant=tenant, hold_id="r-1", amounts={"credits": 101}))).decision
    assert refused.outcome == decision_pb2.OUTCOME_REFUSED
    assert refused.refusal.code == "insufficient_credits"
    assert (refused.hold_id, refused.expires_in_ms, refused.amounts["credits"]) == ("r-1", 120_000, 90)


async def test_a_hold_whose_lease_ended_is_not_extended_and_still_settled(
    quota: QuotaServiceStub, channel: aio.Channel, tenant: str
) -> None:
    await quota.CheckAndReserve(work(tenant, "r-1"))
    await set_time(channel, NOON_MS + 120_000)
    fault = await fault_of(quota.Extend(ExtendRequest(tenant=tenant, hold_id="r-1")))
    assert (fault.status, fault.reason) == (StatusCode.FAILED_PRECONDITION, "HOLD_EXPIRED")
    settled = await quota.Settle(SettleRequest(tenant=tenant, hold_id="r-1"))
    assert settled.state == quota_service_pb2.HOLD_STATE_SETTLED_LATE


async def test_an_estimate_prices_each_item_and_holds_nothing(quota: QuotaServiceStub, tenant: str) -> None:
    items = [
        Item(id="a", product="clip", quantity={"frames": 11}),
        Item(id="b", product="clip", quantity={"frames": 10}, reused=True),
    ]
    request = EstimateRequest(tenant=tenant, action="work", scope={"project": "p1"}, items=items)
    estimate = await quota.Estimate(request)
    assert [(item.id, dict(item.amounts)) for item in estimate.items] == [("a", {"credits": 4}), ("b", {})]
    assert estimate.decision.amounts["credits"] == 4
    assert (estimate.decision.outcome, estimate.decision.hold_id) == (decision_pb2.OUTCOME_GRANTED, "")


async def test_limits_say_where_their_values_came_from(
    quota: QuotaServiceStub, operator: AdminServiceStub, tenant: str
) -> None:
    override = admin.Override(limit_id="jobs", value=7, expires_at_ms=NOON_MS + 5000)
    account = admin.Account(plan="pro", overrides=[override])
    await operator.PutAccount(admin.PutAccountRequest(tenant=tenant, account=account, expected_version=1))
    answer = await quota.GetLimits(GetLimitsRequest(tenant=tenant))
    limits = {limit.id: limit for limit in answer.limits}
    assert answer.plan == "pro"
    assert (limits["rpm"].value, limits["rpm"].window_ms) == (50, 60_000)
    assert limits["rpm"].source == quota_service_pb2.VALUE_SOURCE_PLAN
    assert not limits["rpm"].HasField("override_ends_in_ms")
    assert limits["frames"].source == quota_service_pb2.VALUE_SOURCE_POLICY
    assert (limits["jobs"].value, limits["jobs"].override_ends_in_ms) == (7, 5000)
    assert limits["jobs"].source == quota_service_pb2.VALUE_SOURCE_OVERRIDE
    assert (list(limits["jobs"].scope), list(limits["jobs"].actions)) == (["project"], ["work"])
    assert not limits["credits"].HasField("value")
    (clip,) = answer.prices
    assert (clip.product, dict(clip.block), dict(clip.charge)) == ("clip", {"frames": 10}, {"credits": 3})


BAD_FIELDS: Final = {
    "tenant": work(""),
    "policy": work("acme", policy="nowhere"),
    "request_id": work("acme", LONG),
    "mode": work("acme", mode=99),
    "action": CheckAndReserveRequest(tenant="acme", action="dance"),
    "scope[planet]": work("acme", scope={"planet": "mars"}),
    "scope[project]": work("acme", scope={"project": LONG}),
    "scope": work("acme", scope={f"d{number}": "x" for number in range(17)}),
    "amounts[toknes]": work("acme", amounts={"toknes": 1}),
    "amounts[credits]": work("acme", amounts={"credits": -1}),
    "amounts": work("acme", amounts={f"m{number}": 1 for number in range(17)}),
    "items": work("acme", items=[Item(id=str(number), product="clip") for number in range(MAX_ITEMS + 1)]),
    "items[0].product": work("acme", items=[Item(id="a", product="opera", quantity={"frames": 1})]),
    "items[0].quantity": work("acme", items=[Item(id="a", product="clip")]),
    "items[0].id": work("acme", items=[Item(product="clip", quantity={"frames": 1})]),
    "flexible": work("acme", mode=MODE_BEST_EFFORT),
    "flexible.minimum": work("acme", mode=MODE_BEST_EFFORT, flexible=Flexible(meter="credits", minimum=41)),
    "wait": work("acme", mode=MODE_BEST_EFFORT, flexible=Flexible(meter="credits", minimum=1), wait=True),
}


@pytest.mark.parametrize("field", BAD_FIELDS)
async def test_a_bad_field_of_a_reserve_is_named(quota: QuotaServiceStub, field: str) -> None:
    fault = await fault_of(quota.CheckAndReserve(BAD_FIELDS[field]))
    assert (fault.status, fault.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert field in fault.violations


async def test_all_bad_fields_are_named_at_once(quota: QuotaServiceStub) -> None:
    request = work("acme", LONG, action="dance", scope={"planet": "mars"}, amounts={"credits": MAX_AMOUNT + 1})
    fault = await fault_of(quota.CheckAndReserve(request))
    assert set(fault.violations) == {"request_id", "action", "scope[planet]", "amounts[credits]"}


def settle(**fields: Any) -> SettleRequest:  # noqa: ANN401  # any field
    return SettleRequest(**{"tenant": "acme", "hold_id": "r-1", **fields})


BAD_SETTLES: Final = {
    "tenant": settle(tenant=""),
    "hold_id": settle(hold_id=""),
    "fraction.reserved": settle(fraction=Fraction(delivered=0, reserved=0)),
    "fraction.delivered": settle(fraction=Fraction(delivered=3, reserved=2)),
    "items.ids": settle(items=DeliveredItems(ids=map(str, range(MAX_ITEMS + 1)))),
    "items.ids[0]": settle(items=DeliveredItems(ids=["z"])),
    "usage.used[credits]": settle(usage=Usage(used={"credits": -1})),
    "usage.used[toknes]": settle(usage=Usage(used={"toknes": 1})),
}


@pytest.mark.parametrize("field", BAD_SETTLES)
async def test_a_bad_field_of_a_settle_is_named(quota: QuotaServiceStub, tenant: str, field: str) -> None:
    await reserved(quota, tenant)
    fault = await fault_of(quota.Settle(BAD_SETTLES[field]))
    assert (fault.status, fault.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(fault.violations) == [field]


@pytest.mark.parametrize(
    "fraction",
    [Fraction(delivered=0, reserved=-1), Fraction(delivered=1, reserved=10**6 + 1), Fraction(delivered=-1, reserved=1)],
)
async def test_a_fraction_lies_between_none_and_all(quota: QuotaServiceStub, fraction: Fraction) -> None:
    fault = await fault_of(quota.Settle(settle(fraction=fraction)))
    assert fault.status is StatusCode.INVALID_ARGUMENT


Call = Callable[[QuotaServiceStub], Awaitable[object]]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda quota: quota.Settle(settle(hold_id="nobody")), id="Settle"),
        pytest.param(lambda quota: quota.Release(ReleaseRequest(tenant="acme", hold_id="nobody")), id="Release"),
        pytest.param(lambda quota: quota.Extend(ExtendRequest(tenant="acme", hold_id="nobody")), id="Extend"),
    ],
)
async def test_a_hold_of_another_tenant_is_not_found(quota: QuotaServiceStub, tenant: str, call: Call) -> None:
    await quota.CheckAndReserve(work("other", "nobody", amounts={}))
    fault = await fault_of(call(quota))
    assert (fault.status, fault.reason) == (StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
    assert tenant in fault.message


async def test_fields_of_a_later_version_are_ignored(channel: aio.Channel, tenant: str) -> None:
    unknown_field = b"\xc2\x3e\x05later"  # field 1000, length-delimited
    path = "/quota.v1.QuotaService/CheckAndReserve"
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    answer = await call(work(tenant, "r-1").SerializeToString() + unknown_field)
    decision = quota_service_pb2.CheckAndReserveResponse.FromString(answer).decision
    assert decision.outcome == decision_pb2.OUTCOME_GRANTED


async def test_an_allocation_is_given_back_in_a_batch(quota: QuotaServiceStub, tenant: str) -> None:
    """Nothing stands here, which is an answer of its own beside that of its neighbour."""
    give_back = quota_service_pb2.ReleaseAllocationRequest(tenant=tenant, allocation="p1")
    operations = [
        quota_service_pb2.Operation(release_allocation=give_back),
        quota_service_pb2.Operation(check_and_reserve=work(tenant, "r-1")),
    ]
    answer = await quota.Batch(quota_service_pb2.BatchRequest(operations=operations))
    first, second = answer.results
    assert first.WhichOneof("result") == "release_allocation"
    assert not first.release_allocation.applied
    assert second.check_and_reserve.decision.outcome == decision_pb2.OUTCOME_GRANTED
