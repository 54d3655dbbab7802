"""The documented back-off of a Kynasmith client: wait as told, else longer each time, and only where waiting helps."""

import json
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

RETRIES = 4
LONGEST_S = 30.0
JITTER_S = 0.5
TOO_MANY_REQUESTS = 429


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error, or nothing."""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""


def with_back_off(send: Callable[[], Answer], sleep: Callable[[float], None]) -> Answer:
    """Sends until it is not throttled, four times more at most; the last answer.

    Billing errors are never tried again: no waiting mends them.
    """
    for attempt in range(RETRIES):
        answer = send()
        if answer.status != TOO_MANY_REQUESTS or answer.code != "rate_limited":
            return answer
        sleep(wait_s(answer, attempt))
    return send()


def wait_s(answer: Answer, attempt: int) -> float:
    """What the answer says, or 1, 2, 4, 8 … seconds with jitter, 30 at most."""
    told = answer.headers.get("Retry-After")
    if told is not None:
        return float(told)
    return min(float(1 << attempt) + random.uniform(0, JITTER_S), LONGEST_S)  # noqa: S311  # spreads clients, hides nothing
