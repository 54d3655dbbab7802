"""Asks Holdgate whether a request may go ahead, and keeps the hold for as long as the work takes.

`AsyncQuota` for asyncio, `Quota` for threads; both have `hold`, `reserve`, `settle`, `release`.
"""

from holdgate.answers import HttpAnswer, QuotaAway, Refused, http_answer
from holdgate.asking import Ask, Posture, Tls
from holdgate.asyncio import AsyncQuota
from holdgate.hold import Hold
from holdgate.threads import Quota

__all__ = [
    "Ask",
    "AsyncQuota",
    "Hold",
    "HttpAnswer",
    "Posture",
    "Quota",
    "QuotaAway",
    "Refused",
    "Tls",
    "http_answer",
]
