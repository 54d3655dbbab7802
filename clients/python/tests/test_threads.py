"""The client for threads, call by call, against a channel of grpcio-testing."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from holdgate import Ask, Posture, Quota, QuotaAway, Refused
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2 as quota

PATIENCE_S = 20
SERVICE = quota.DESCRIPTOR.services_by_name["QuotaService"]
ASK = Ask(tenant="acme", action="job", amounts={"credits": 10}, request_id="h-1")


class Server:
    """The other end of the channel: takes one call after the other and answers it as the test says."""

    def __init__(self) -> None:
        self.channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())

    def answers(self, method: str, answer: Any) -> Any:  # noqa: ANN401  # the method's own messages
        """Waits for a call, answers it, and gives the request."""
        return self._ends(method, answer, (), grpc.StatusCode.OK)

    def fails(self, method: str, code: grpc.StatusCode, trailers: tuple[tuple[str, bytes], ...] = ()) -> Any:  # noqa: ANN401  # as above
        return self._ends(method, None, trailers, code)

    def _ends(self, method: str, answer: Any, trailers: tuple[tuple[str, bytes], ...], code: grpc.StatusCode) -> Any:  # noqa: ANN401  # as above
        _, request, rpc = self.channel.take_unary_unary(SERVICE.methods_by_name[method])
        rpc.send_initial_metadata(())
        rpc.terminate(answer, trailers, code, "said so")
        return request


def granted(hold_id: str = "h-1", renew_after_ms: int = 60_000) -> quota.CheckAndReserveResponse:
    http = decided.HttpAnswer(headers={"X-Remaining": "4"})
    decision = decided.Decision(outcome=decided.OUTCOME_GRANTED, hold_id=hold_id, http=http)
    decision.renew_after_ms = renew_after_ms
    return quota.CheckAndReserveResponse(decision=decision)


def refused() -> quota.CheckAndReserveResponse:
    refusal = decided.Refusal(code="rate_limited", http_status=429, message="Too fast.", retry_after_ms=1500)
    http = decided.HttpAnswer(status=429, headers={"Retry-After": "2"}, body='{"slow": "down"}')
    decision = decided.Decision(outcome=decided.OUTCOME_REFUSED, refusal=refusal, http=http)
    return quota.CheckAndReserveResponse(decision=decision)


def asked_to_wait(wait_ms: int) -> tuple[tuple[str, bytes], ...]:
    """Trailers of an error that says when to come back."""
    delay = Duration()
    delay.FromMilliseconds(wait_ms)
    status = Status(code=14)
    status.details.add().Pack(RetryInfo(retry_delay=delay))
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def caller() -> Callable[..., Future[Any]]:
    """Runs the client beside the test, in a thread that holds up nobody when the test has failed."""

    def call(work: Callable[..., Any], *words: object) -> Future[Any]:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work(*words))
            except BaseException as error:  # noqa: BLE001  # whatever it is, the test looks at it
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    return call


def client(server: Server, posture: Posture = Posture.CLOSED, within_s: float = 5.0) -> Quota:
    return Quota(
        "nowhere:1", policy="golden", channel=server.channel, within_s=within_s, attempt_s=2.0, posture=posture
    )


def test_a_block_that_ends_well_settles_what_was_reported(server: Server, caller: Callable[..., Future[Any]]) -> None:
    def work() -> str:
        with client(server).hold(ASK) as hold:
            hold.report(credits=7)
            return hold.hold_id

    done = caller(work)
    asked = server.answers("CheckAndReserve", granted())
    settled = server.answers("Settle", quota.SettleResponse())
    assert done.result(PATIENCE_S) == "h-1"
    assert (asked.policy, asked.tenant, asked.request_id, dict(asked.amounts)) == (
        "golden",
        "acme",
        "h-1",
        {"credits": 10},
    )
    assert (settled.hold_id, dict(settled.usage.used), settled.final) == ("h-1", {"credits": 7}, True)


def test_a_block_that_says_nothing_settles_everything_as_reserved(
    server: Server, caller: Callable[..., Future[Any]]
) -> None:
    def work() -> None:
        with client(server).hold(ASK):
            pass

    done = caller(work)
    server.answers("CheckAndReserve", granted())
    settled = server.answers("Settle", quota.SettleResponse())
    done.result(PATIENCE_S)
    assert settled.WhichOneof("delivered") is None


def test_a_block_that_fails_reports_and_releases(server: Server, caller: Callable[..., Future[Any]]) -> None:
    def work() -> None:
        with client(server).hold(ASK) as hold:
            hold.report(credits=2)
            raise RuntimeError("the work failed")

    done = caller(work)
    server.answers("CheckAndReserve", granted())
    reported = server.answers("Settle", quota.SettleResponse())
    released = server.answers("Release", quota.ReleaseResponse())
    with pytest.raises(RuntimeError, match="the work failed"):
        done.result(PATIENCE_S)
    assert (dict(reported.usage.used), reported.final) == ({"credits": 2}, False)
    assert released.hold_id == "h-1"


def test_a_release_that_fails_hides_no_exception(server: Server, caller: Callable[..., Future[Any]]) -> None:
    def work() -> None:
        with client(server).hold(ASK):
            raise RuntimeError("the work failed")

    done = caller(work)
    server.answers("CheckAndReserve", granted())
    server.fails("Release", grpc.StatusCode.NOT_FOUND)
    with pytest.raises(RuntimeError, match="the work failed"):
        done.result(PATIENCE_S)


def test_the_lease_is_renewed_with_what_was_reported(server: Server, caller: Callable[..., Future[Any]]) -> None:
    renewed = threading.Event()

    def work() -> None:
        with client(server).hold(ASK) as hold:
            hold.report(credits=3)
            assert renewed.wait(10)

    done = caller(work)
    server.answers("CheckAndReserve", granted(renew_after_ms=50))
    first = server.answers("Extend", quota.ExtendResponse(decision=granted(renew_after_ms=50).decision))
    server.fails("Extend", grpc.StatusCode.UNAVAILABLE)  # it is tried again
    second = server.answers("Extend", quota.ExtendResponse(decision=granted().decision))
    renewed.set()
    server.answers("Settle", quota.SettleResponse())
    done.result(PATIENCE_S)
    assert [dict(request.used) for request in (first, second)] == [{"credits": 3}, {"credits": 3}]


def test_a_refusal_is_raised_or_returned(server: Server, caller: Callable[..., Future[Any]]) -> None:
    def work() -> None:
        with client(server).hold(ASK):
            raise AssertionError("the block must not run")

    done = caller(work)
    server.answers("CheckAndReserve", refused())
    with pytest.raises(Refused, match="rate_limited: Too fast") as raised:
        done.result(PATIENCE_S)
    assert raised.value.decision.refusal.retry_after_ms == 1500

    returned = caller(client(server).reserve, ASK)
    server.answers("CheckAndReserve", refused())
    assert returned.result(PATIENCE_S).outcome == decided.OUTCOME_REFUSED


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
def test_a_call_without_a_decision_is_repeated_under_its_id(
    server: Server, caller: Callable[..., Future[Any]], code: grpc.StatusCode
) -> None:
    done = caller(client(server).reserve, ASK)
    first = server.fails("CheckAndReserve", code)
    second = server.answers("CheckAndReserve", granted())
    assert done.result(PATIENCE_S).hold_id == "h-1"
    assert first == second


def test_the_servers_advice_on_when_to_come_back_is_followed(
    server: Server, caller: Callable[..., Future[Any]]
) -> None:
    done = caller(client(server).reserve, ASK)
    server.fails("CheckAndReserve", grpc.StatusCode.UNAVAILABLE, asked_to_wait(400))
    failed_s = monotonic()
    server.answers("CheckAndReserve", granted())
    assert monotonic() - failed_s >= 0.4
    done.result(PATIENCE_S)


def test_a_bad_request_is_not_repeated(server: Server, caller: Callable[..., Future[Any]]) -> None:
    done = caller(client(server).reserve, ASK)
    server.fails("CheckAndReserve", grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(grpc.RpcError) as raised:
        done.result(PATIENCE_S)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_without_a_server_the_posture_decides(server: Server, caller: Callable[..., Future[Any]]) -> None:
    def work(posture: Posture) -> bool:
        with client(server, posture).hold(ASK) as hold:
            return hold.degraded

    closed = caller(work, Posture.CLOSED)
    server.fails("CheckAndReserve", grpc.StatusCode.UNAVAILABLE, asked_to_wait(60_000))
    with pytest.raises(QuotaAway, match="UNAVAILABLE"):
        closed.result(PATIENCE_S)

    opened = caller(work, Posture.OPEN)
    server.fails("CheckAndReserve", grpc.StatusCode.UNAVAILABLE, asked_to_wait(60_000))
    assert opened.result(PATIENCE_S) is True
