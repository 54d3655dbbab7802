"""Envoy's rate limit service, message by message."""

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode, aio
from proxies import envoy_ratelimit_v3_pb2 as rls
from proxies.envoy_ratelimit_v3_pb2_grpc import RateLimitServiceStub
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from tests.proxies.asking import OK, OVER_LIMIT, asked, described, figures

CALL = {"org": "acme", "action": "call"}
JOB = {"org": "acme", "action": "job"}


async def test_requests_are_counted_until_they_are_over_the_limit(envoy: RateLimitServiceStub) -> None:
    answers = [await envoy.ShouldRateLimit(asked(described(CALL))) for _ in range(4)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OK, OVER_LIMIT]
    first, last = answers[0].statuses[0], answers[3].statuses[0]
    assert (first.code, first.current_limit.name, first.limit_remaining) == (OK, "rpm", 2)
    assert last.code == OVER_LIMIT
    assert last.current_limit == rls.RateLimitResponse.RateLimit(
        name="rpm", requests_per_unit=3, unit=rls.RateLimitResponse.RateLimit.MINUTE
    )
    assert last.limit_remaining == 0
    assert 59 <= last.duration_until_reset.seconds <= 60


async def test_a_refusal_has_headers_and_a_body_for_the_client(envoy: RateLimitServiceStub) -> None:
    for _ in range(3):
        await envoy.ShouldRateLimit(asked(described(CALL)))
    answer = await envoy.ShouldRateLimit(asked(described(CALL)))
    headers = {header.key: header.value for header in answer.response_headers_to_add}
    assert headers["Retry-After"] == "60"
    assert headers["RateLimit-Policy"] == '"rpm";q=3;w=60'
    assert headers["RateLimit"] == '"rpm";r=0;t=60'
    assert headers["Content-Type"] == "application/json"
    assert b'"code":"rate_limited"' in answer.raw_body


async def test_metadata_tells_of_the_hold_and_of_what_was_violated(envoy: RateLimitServiceStub) -> None:
    taken = described({**JOB, "q.request_id": "r-1", "meter": "credits"}, hits=40)
    granted = MessageToDict((await envoy.ShouldRateLimit(asked(taken))).dynamic_metadata)
    assert granted["hold_id"] == "r-1"
    assert granted["outcome"] == "granted"
    assert granted["remaining"]["credits"] == "60"
    too_much = described({**JOB, "meter": "credits"}, hits=60)
    await envoy.ShouldRateLimit(asked(too_much))
    refused = MessageToDict((await envoy.ShouldRateLimit(asked(too_much))).dynamic_metadata)
    assert refused["violated"] == ["jobs", "credits"]
    assert refused["code"] == "insufficient_credits"


async def test_every_descriptor_has_a_status_and_all_are_decided_at_once(
    envoy: RateLimitServiceStub, quota: QuotaServiceStub
) -> None:
    both = [described({**JOB, "q.request_id": "r-1"}), described({**JOB, "meter": "credits"}, hits=61)]
    answer = await envoy.ShouldRateLimit(asked(*both))
    assert answer.overall_code == OVER_LIMIT
    assert [status.current_limit.name for status in answer.statuses] == ["size", "size"]
    assert await figures(quota) == {"rpm": (0, 0), "jobs": (0, 0), "credits": (0, 0)}
    both[1] = described({**JOB, "meter": "credits"}, hits=50)
    answer = await envoy.ShouldRateLimit(asked(*both))
    assert [status.code for status in answer.statuses] == [OK, OK]
    assert answer.request_headers_to_add[0].value == "r-1"
    assert await figures(quota) == {"rpm": (0, 0), "jobs": (1, 1), "credits": (50, 50)}


async def test_units_of_0_only_look(envoy: RateLimitServiceStub, quota: QuotaServiceStub) -> None:
    for _ in range(5):
        assert (await envoy.ShouldRateLimit(asked(described(CALL, hits=0)))).overall_code == OK
    await envoy.ShouldRateLimit(asked(described(CALL), hits=3))
    assert (await envoy.ShouldRateLimit(asked(described(CALL, hits=0)))).overall_code == OVER_LIMIT
    assert (await figures(quota))["rpm"] == (3, 0)


async def test_usage_at_the_end_of_a_stream_is_charged(envoy: RateLimitServiceStub, quota: QuotaServiceStub) -> None:
    await envoy.ShouldRateLimit(asked(described({**JOB, "q.request_id": "r-1", "meter": "credits"}, hits=40)))
    usage = described({"org": "acme", "q.op": "settle", "q.hold_id": "r-1", "meter": "credits"}, hits=7)
    in_case = described({"org": "acme", "q.op": "release", "q.hold_id": "r-1"}, hits=1)
    for _ in range(2):  # the second time it has ended already
        answer = await envoy.ShouldRateLimit(asked(usage, in_case))
        assert [status.code for status in answer.statuses] == [OK, OK]
    assert await figures(quota) == {"rpm": (0, 0), "jobs": (0, 0), "credits": (0, 0)}
    left = await envoy.ShouldRateLimit(asked(described({**JOB, "meter": "credits"}, hits=0)))
    assert MessageToDict(left.dynamic_metadata)["remaining"]["credits"] == "93"


async def test_without_usage_the_hold_is_released(envoy: RateLimitServiceStub, quota: QuotaServiceStub) -> None:
    await envoy.ShouldRateLimit(asked(described({**JOB, "q.request_id": "r-1", "meter": "credits"}, hits=40)))
    await envoy.ShouldRateLimit(asked(described({"org": "acme", "q.op": "release", "q.hold_id": "r-1"}, hits=1)))
    assert await figures(quota) == {"rpm": (0, 0), "jobs": (0, 0), "credits": (0, 0)}


async def test_negative_units_give_back_what_the_hold_recorded(envoy: RateLimitServiceStub) -> None:
    for request_id, units, left in (("r-1", 15, 75), ("r-2", 500, 75)):
        await envoy.ShouldRateLimit(asked(described({**JOB, "q.request_id": request_id, "meter": "credits"}, hits=40)))
        back = {"org": "acme", "q.op": "settle", "q.hold_id": request_id, "meter": "credits"}
        await envoy.ShouldRateLimit(asked(described(back, hits=units, negative=True)))
        looked = await envoy.ShouldRateLimit(asked(described({**JOB, "meter": "credits"}, hits=0)))
        assert MessageToDict(looked.dynamic_metadata)["remaining"]["credits"] == str(left)


@pytest.mark.parametrize("hold_id", ["", "never-was"])
@pytest.mark.parametrize("op", ["settle", "release"])
async def test_an_end_without_a_hold_is_left_alone(envoy: RateLimitServiceStub, op: str, hold_id: str) -> None:
    end = described({"org": "acme", "q.op": op, "q.hold_id": hold_id, "meter": "credits"}, hits=5)
    assert (await envoy.ShouldRateLimit(asked(end))).overall_code == OK


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked(described(CALL), domain="silver"), "policy: there is no policy 'silver'"),
        (asked(), "descriptors: has 0 entries"),
        (asked(*[described(CALL)] * 17), "descriptors: has 17 entries"),
        (asked(described()), "descriptors[0]: has no entries"),
        (asked(described(CALL, colour="red")), "descriptors[0].colour: is not known to policy 'golden'"),
        (asked(described(action="call")), "tenant: must not be empty"),
        (asked(described(org="acme")), "action: "),
        (asked(described(CALL), described(org="other")), "descriptors[1].org: is 'other', and 'acme' elsewhere"),
        (asked(described(CALL, model="a"), described(model="b")), "descriptors[1].model: is 'b', and 'a' elsewhere"),
        (asked(described(CALL, meter="toknes")), "amounts[toknes]"),
        (asked(*[described(CALL, meter="credits", hits=units) for units in (1, 2)]), "asks for 2 of credits"),
        (asked(described(CALL, meter="credits", hits=2**63)), "amounts[credits]"),
        (asked(described(CALL, hits=2**64 - 1)), "amounts[requests]"),
        (asked(described(CALL, hits=0), described(CALL, hits=1)), "take something and only look"),
        (asked(described({**CALL, "q.op": "dance"})), "q.op: is 'dance'"),
        (asked(described(CALL), described({"q.op": "settle", "q.hold_id": "h"})), "end a hold"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_an_error_that_names_it_and_takes_nothing(
    envoy: RateLimitServiceStub, quota: QuotaServiceStub, request_: rls.RateLimitRequest, said: str
) -> None:
    with pytest.raises(aio.AioRpcError) as raised:
        await envoy.ShouldRateLimit(request_)
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT
    assert said in str(raised.value.details())
    assert await figures(quota) == {"rpm": (0, 0), "jobs": (0, 0), "credits": (0, 0)}
