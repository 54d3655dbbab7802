"""The client for threads."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import sleep
from types import TracebackType
from typing import Any, Final, Self

import grpc
from quota.v1 import decision_pb2 as decided
from quota.v1 import quota_service_pb2 as quota
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from holdgate.answers import QuotaAway, Refused
from holdgate.asking import Ask, Posture, Tls
from holdgate.hold import Hold
from holdgate.retries import AWAY, Attempts, code_of

_log: Final = logging.getLogger("holdgate")


class Quota:
    """As `AsyncQuota`, for threads: every method waits, and the lease is kept by a thread of the hold's own.

    `channel` is for tests, in place of a connection to `address`.
    """

    def __init__(  # noqa: PLR0913  # each has its default, and is named
        self,
        address: str,
        *,
        policy: str = "",
        tls: Tls | None = None,
        within_s: float = 2.0,
        attempt_s: float = 1.0,
        posture: Posture = Posture.CLOSED,
        channel: grpc.Channel | None = None,
    ) -> None:
        opened = grpc.secure_channel(address, tls.credentials()) if tls else grpc.insecure_channel(address)
        self._channel = channel or opened
        self._stub: Any = QuotaServiceStub(self._channel)  # type: ignore[arg-type]  # the stubs' types know asyncio alone
        self._policy = policy
        self._within_s = within_s
        self._attempt_s = attempt_s
        self._posture = posture

    def __enter__(self) -> Self:
        """The client itself; leaving the block closes its connection."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def reserve(self, ask: Ask) -> decided.Decision:
        """The decision, whatever it is. Raises QuotaAway where there is none, grpc.RpcError for a bad request."""
        answer: quota.CheckAndReserveResponse = self._call(
            self._stub.CheckAndReserve, ask.message(self._policy), ask.wait_s
        )
        return answer.decision

    @contextmanager
    def hold(self, ask: Ask) -> Iterator[Hold]:
        """Runs the block with what was asked for: keeps the lease, settles what was used, releases on an exception.

        Raises Refused, and QuotaAway where the posture is closed.
        """
        hold = Hold(ask, self._decided(ask))
        if not hold.hold_id:
            yield hold
            return
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(hold, over), name=f"lease of {hold.hold_id}", daemon=True)
        keeper.start()
        try:
            yield hold
        except BaseException:
            over.set()
            keeper.join()
            self._let_go(hold)
            raise
        over.set()
        keeper.join()
        self.settle(ask.tenant, hold.hold_id, hold.used)

    def settle(
        self, tenant: str, hold_id: str, used: Mapping[str, int] | None = None, *, final: bool = True
    ) -> quota.SettleResponse:
        """Charges totals by meter; with none, everything as reserved. When final, the hold ends."""
        usage = quota.Usage(used=used) if used else None
        request = quota.SettleRequest(policy=self._policy, tenant=tenant, hold_id=hold_id, usage=usage, final=final)
        answer: quota.SettleResponse = self._call(self._stub.Settle, request)
        return answer

    def release(self, tenant: str, hold_id: str) -> quota.ReleaseResponse:
        """Gives back what no report has charged, and ends the hold."""
        request = quota.ReleaseRequest(policy=self._policy, tenant=tenant, hold_id=hold_id)
        answer: quota.ReleaseResponse = self._call(self._stub.Release, request)
        return answer

    def extend(self, tenant: str, hold_id: str, used: Mapping[str, int] | None = None) -> decided.Decision:
        """Renews the lease, and reports totals."""
        request = quota.ExtendRequest(policy=self._policy, tenant=tenant, hold_id=hold_id, used=used)
        decision: decided.Decision = self._call(self._stub.Extend, request).decision
        return decision

    def _decided(self, ask: Ask) -> decided.Decision | None:
        try:
            decision = self.reserve(ask)
        except QuotaAway as error:
            if ask.wait_s and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                waiting = decided.Decision(outcome=decided.OUTCOME_QUEUED, hold_id=ask.request_id)
                self._let_go(Hold(ask, waiting))
                raise Refused(waiting) from error
            if self._posture is Posture.CLOSED:
                raise
            _log.warning("the quota service is away: %s of %s goes ahead uncounted", ask.action, ask.tenant)
            return None
        if decision.outcome == decided.OUTCOME_GRANTED:
            return decision
        if decision.outcome == decided.OUTCOME_QUEUED:
            self._let_go(Hold(ask, decision))
        raise Refused(decision)

    def _keep(self, hold: Hold, over: threading.Event) -> None:
        """Renews the lease in time, until the hold is over, or the server says that there is nothing to renew."""
        decision = hold.decision
        while decision is not None and decision.HasField("renew_after_ms"):
            if over.wait(decision.renew_after_ms / 1000):
                return
            try:
                decision = self.extend(hold.ask.tenant, hold.hold_id, hold.used)
            except QuotaAway as error:
                _log.warning("hold %s could not be renewed, and will be tried again: %s", hold.hold_id, error)
            except grpc.RpcError as error:
                _log.warning("hold %s is not renewed any more: %s", hold.hold_id, code_of(error).name)
                return

    def _let_go(self, hold: Hold) -> None:
        """Releases after a failure; a release that fails in turn is left to the end of the lease."""
        try:
            if hold.used:
                self.settle(hold.ask.tenant, hold.hold_id, hold.used, final=False)
            self.release(hold.ask.tenant, hold.hold_id)
        except (QuotaAway, grpc.RpcError) as error:
            _log.warning("hold %s could not be released; it ends with its lease: %s", hold.hold_id, error)

    def _call(self, method: Callable[..., Any], request: object, wait_s: float = 0) -> Any:  # noqa: ANN401  # the method's own answer
        attempts = Attempts(self._within_s, self._attempt_s, wait_s)
        while True:
            try:
                return method(request, timeout=attempts.timeout_s())
            except grpc.RpcError as error:
                pause_s = attempts.pause_s(error)
                if pause_s is None:
                    if code_of(error) in AWAY:
                        raise QuotaAway(code_of(error), str(error)) from error
                    raise
            sleep(pause_s)
