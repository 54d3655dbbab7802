"""How often and how soon a call is sent again. Every call names its operation, so a repeat is never counted twice."""

import random
from time import monotonic
from typing import Any, Final, cast

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""No decision was made, and the caller is not to blame: its posture decides. A refusal is never one of them."""

_WORTH_REPEATING: Final = AWAY - {grpc.StatusCode.INTERNAL} | {grpc.StatusCode.ABORTED}
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
_DETAILS_KEY: Final = "grpc-status-details-bin"


class Attempts:
    """The tries of one call: each takes at most `attempt_s` seconds, all of them together `within_s`; of a call that
    may wait for its turn, `wait_s` longer. Where such a try ends with its deadline, its place in the line is gone.
    """

    def __init__(self, within_s: float, attempt_s: float, wait_s: float = 0) -> None:
        self._until_s = monotonic() + within_s + wait_s
        self._attempt_s = attempt_s + wait_s
        self._worth_repeating = _WORTH_REPEATING - {grpc.StatusCode.DEADLINE_EXCEEDED} if wait_s else _WORTH_REPEATING
        self._pause_s = _FIRST_PAUSE_S

    def timeout_s(self) -> float:
        """How long the next try may take."""
        return max(min(self._attempt_s, self._until_s - monotonic()), 0.001)

    def pause_s(self, error: grpc.RpcError) -> float | None:
        """How long to wait before another try; None where it would not help, or come too late."""
        if code_of(error) not in self._worth_repeating:
            return None
        # Between half and all of it, so that clients that failed together do not come back together.
        pause_s = max(self._pause_s * random.uniform(0.5, 1), _advised_s(error))  # noqa: S311  # no secret
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s if monotonic() + pause_s < self._until_s else None


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status that a call ended with."""
    return cast("grpc.Call", error).code()


def _advised_s(error: grpc.RpcError) -> float:
    """What the server asks its callers to wait, in seconds."""
    trailers: tuple[tuple[str, str | bytes], ...] = cast("Any", error).trailing_metadata() or ()
    for key, value in trailers:
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in Status.FromString(value).details:
            info = RetryInfo()
            if detail.Unpack(info):
                return info.retry_delay.ToMilliseconds() / 1000
    return 0.0
