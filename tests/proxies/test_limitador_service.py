"""Limitador's protocol: check and report, reserve and commit."""

import pytest
from grpc import StatusCode, aio
from proxies import kuadrant_ratelimit_v1_pb2 as kuadrant
from proxies.kuadrant_ratelimit_v1_pb2_grpc import RateLimitServiceStub
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from tests.proxies.asking import OK, OVER_LIMIT, asked, described, figures

CALL = described({"org": "acme", "action": "call"})
PAID = described({"org": "acme", "action": "call", "meter": "credits"})


@pytest.fixture
def limitador(channel: aio.Channel) -> RateLimitServiceStub:
    return RateLimitServiceStub(channel)


async def reserved(limitador: RateLimitServiceStub, amount: int) -> kuadrant.ReserveResponse:
    return await limitador.Reserve(kuadrant.ReserveRequest(domain="golden", descriptors=[PAID], amount=amount))


async def committed(limitador: RateLimitServiceStub, reservation: str, actual: int) -> bool:
    request = kuadrant.CommitRequest(
        domain="golden", descriptors=[PAID], reservation_id=reservation, actual_amount=actual
    )
    return (await limitador.Commit(request)).reservation_released


async def test_a_check_takes_nothing_and_a_report_of_requests_charges_as_far_as_the_window_goes(
    limitador: RateLimitServiceStub, quota: QuotaServiceStub
) -> None:
    for _ in range(4):
        assert (await limitador.CheckRateLimit(asked(CALL))).overall_code == OK
    for _ in range(4):
        assert (await limitador.Report(asked(CALL))).overall_code == OK
    assert (await figures(quota))["rpm"] == (3, 0)
    answer = await limitador.CheckRateLimit(asked(CALL))
    assert (answer.overall_code, answer.statuses[0].current_limit.name) == (OVER_LIMIT, "rpm")


async def test_a_report_of_units_charges_whatever_the_limits_say(limitador: RateLimitServiceStub) -> None:
    for _ in range(4):
        assert (await limitador.Report(asked(PAID, hits=30))).overall_code == OK
    answer = await limitador.CheckRateLimit(asked(PAID))
    assert (answer.overall_code, answer.statuses[0].current_limit.name) == (OVER_LIMIT, "credits")


async def test_a_reservation_is_committed_for_what_was_used(
    limitador: RateLimitServiceStub, quota: QuotaServiceStub
) -> None:
    answer = await reserved(limitador, 60)
    assert answer.code == OK
    assert (await figures(quota))["credits"] == (60, 60)
    assert await committed(limitador, answer.reservation_id, 25)
    assert (await figures(quota))["credits"] == (0, 0)
    assert await committed(limitador, answer.reservation_id, 25)  # a repeat changes nothing
    assert (await reserved(limitador, 60)).code == OK
    assert (await reserved(limitador, 20)).code == OVER_LIMIT  # 75 were left


async def test_a_commit_of_nothing_gives_everything_back(
    limitador: RateLimitServiceStub, quota: QuotaServiceStub
) -> None:
    answer = await reserved(limitador, 60)
    assert await committed(limitador, answer.reservation_id, 0)
    assert (await figures(quota))["credits"] == (0, 0)
    assert (await reserved(limitador, 60)).code == OK


async def test_a_refused_reservation_has_no_id(limitador: RateLimitServiceStub, quota: QuotaServiceStub) -> None:
    answer = await reserved(limitador, 61)
    assert (answer.code, answer.reservation_id) == (OVER_LIMIT, "")
    assert (await figures(quota))["credits"] == (0, 0)


@pytest.mark.parametrize("reservation", ["", "never-was"])
async def test_without_a_reservation_a_commit_charges_all_the_same(
    limitador: RateLimitServiceStub, reservation: str
) -> None:
    assert not await committed(limitador, reservation, 70)
    assert (await reserved(limitador, 31)).code == OVER_LIMIT
    assert (await reserved(limitador, 30)).code == OK


async def test_a_commit_of_a_reservation_that_is_gone_charges_once_however_often_it_comes(
    limitador: RateLimitServiceStub,
) -> None:
    """The account had 100, of which 60 are what one request may ask for."""
    for _ in range(3):
        await committed(limitador, "long-gone", 40)
    assert (await reserved(limitador, 60)).code == OK
    assert (await reserved(limitador, 1)).code == OVER_LIMIT


async def test_what_cannot_be_is_an_error(limitador: RateLimitServiceStub) -> None:
    with pytest.raises(aio.AioRpcError) as raised:
        await limitador.Reserve(kuadrant.ReserveRequest(domain="silver", descriptors=[PAID], amount=1))
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT
