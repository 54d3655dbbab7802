"""What every call has, on any transport that offers a deadline and an abort."""

import pytest
from grpc import StatusCode
from quota.v1.quota_service_pb2 import ReleaseRequest, ReleaseResponse
from structlog.testing import capture_logs

from server.domain.errors import HoldgateError, HoldNotFoundError, StoreUnavailableError
from server.rpc.calls import ANSWER_MARGIN_S, answering
from tests.rpc.test_errors import EndedError, RecordingContext


class Context(RecordingContext):
    """A caller who has these many seconds left at each look, the last one from then on."""

    def __init__(self, *left_s: float | None) -> None:
        self._left_s = list(left_s)

    def time_remaining(self) -> float | None:
        return self._left_s.pop(0) if len(self._left_s) > 1 else self._left_s[0]


class Servicer:
    """Answers, or fails with what it is given; remembers how long it was allowed to take."""

    store_timeout_s = 0.5

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.given_s: list[float] = []

    @answering
    async def release(self, _request: ReleaseRequest, within_s: float) -> ReleaseResponse:
        self.given_s.append(within_s)
        if self._error is not None:
            raise self._error
        return ReleaseResponse(applied=True)


REQUEST = ReleaseRequest(tenant="acme", hold_id="r-1")


@pytest.mark.parametrize(
    ("left_s", "within_s"),
    [
        pytest.param(None, 0.5, id="no deadline"),
        pytest.param(60.0, 0.5, id="a far deadline"),
        pytest.param(0.1, 0.1 - ANSWER_MARGIN_S, id="a near deadline"),
    ],
)
async def test_a_call_waits_for_the_store_no_longer_than_its_caller_for_the_call(
    left_s: float | None, within_s: float
) -> None:
    servicer = Servicer()
    answer = await servicer.release(REQUEST, Context(left_s))
    assert answer.applied
    assert servicer.given_s == [pytest.approx(within_s)]


async def failed(servicer: Servicer, context: Context) -> Context:
    with pytest.raises(EndedError):
        await servicer.release(REQUEST, context)
    return context


@pytest.mark.parametrize("left_s", [0.0, ANSWER_MARGIN_S / 2])
async def test_a_call_whose_deadline_is_over_is_not_tried(left_s: float) -> None:
    servicer = Servicer()
    fault = (await failed(servicer, Context(left_s))).fault()
    assert (fault.status, fault.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert servicer.given_s == []


async def test_a_store_that_is_slower_than_the_deadline_is_a_missed_deadline() -> None:
    servicer = Servicer(StoreUnavailableError("no answer"))
    fault = (await failed(servicer, Context(0.02, 0.001))).fault()
    assert (fault.status, fault.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert "20 ms" in fault.message


@pytest.mark.parametrize("left_s", [None, 1.0])
async def test_a_store_that_fails_in_time_is_unavailable(left_s: float | None) -> None:
    fault = (await failed(Servicer(StoreUnavailableError("no answer")), Context(left_s))).fault()
    assert (fault.status, fault.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_a_defect_is_told_by_number_and_only_the_log_has_its_text() -> None:
    defect = ValueError("the secret of acme")
    with capture_logs() as logged:
        fault = (await failed(Servicer(defect), Context(None))).fault()
    assert (fault.status, fault.reason) == (StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in fault.message
    (event,) = logged
    assert event["log_level"] == "error"
    assert event["correlation_id"] == fault.metadata["correlation_id"]
    assert event["exc_info"]
    assert (event["rpc"], event["tenant"], event["hold_id"]) == ("release", "acme", "r-1")


@pytest.mark.parametrize(
    ("error", "level"),
    [(StoreUnavailableError("no answer"), "warning"), (HoldNotFoundError("no such hold"), "info")],
)
async def test_every_fault_is_logged_and_ours_louder(error: HoldgateError, level: str) -> None:
    with capture_logs() as logged:
        await failed(Servicer(error), Context(None))
    assert [(event["event"], event["log_level"], event["error"]) for event in logged] == [
        ("rpc.failed", level, error.message)
    ]


async def test_a_fault_without_an_entry_of_its_own_is_internal() -> None:
    fault = (await failed(Servicer(HoldgateError("odd")), Context(None))).fault()
    assert (fault.status, fault.reason) == (StatusCode.INTERNAL, "INTERNAL")
