"""Numbers as stories write them: times on the story's own calendar, durations, money."""

import re
from datetime import datetime, timedelta
from typing import Final

from server.domain.policy import Unit
from server.policy.values import amount

_AFTER: Final = re.compile(r"T0(?:([+-])(.+))?")
_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T.*Z")
_BARE_SECONDS: Final = re.compile(r"[0-9.]+")


def number(written: str, t0_ms: int) -> int:
    """Base units of `T0+58.000`, `T0-30m`, `2026-03-31T23:59:59.999Z`, `30s`, `$0.50`; raises ValueError."""
    if after := _AFTER.fullmatch(written):
        sign, distance = after[1], after[2]
        if distance is None:
            return t0_ms
        seconds = f"{distance}s" if _BARE_SECONDS.fullmatch(distance) else distance
        return t0_ms + amount(seconds, Unit.DURATION) * (1 if sign == "+" else -1)
    if _INSTANT.fullmatch(written):
        return epoch_ms(written)
    return amount(written, Unit.MONEY if written.startswith("$") else Unit.DURATION)


def epoch_ms(instant: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 instant; raises ValueError."""
    since_epoch = datetime.fromisoformat(instant) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    return since_epoch // timedelta(milliseconds=1)
