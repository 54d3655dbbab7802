"""What operators do by hand, and the line that each act leaves in the audit trail."""

from enum import IntEnum
from typing import Final, NamedTuple

from server.domain.errors import FieldViolation
from server.domain.operation import TenantRef

MAX_REASON_BYTES: Final = 500


class Deed(IntEnum):
    """What was done. The numbers are stored and never change."""

    RESET = 1
    ADJUST = 2
    RELEASE = 3
    ACCOUNT = 4
    DELETE = 5
    REPAIR = 6


class Act(NamedTuple):
    """One act as it is about to be done: who does what to which `target` (a limit with its dimensions, or a hold), why,
    and under which id. `before` and `after` are what is known of its effect beforehand; the rest the step itself tells.
    """

    deed: Deed
    who: str
    why: str
    target: str = ""
    request_id: str = ""
    before: str = ""
    after: str = ""


class Word(NamedTuple):
    """On whose word something is done: the caller's name (empty where callers are not told apart), and the reason."""

    who: str = ""
    why: str = ""


NOBODY: Final = Word()
"""Where nobody said anything."""


class AuditLine(NamedTuple):
    """One act as it was done, at `at_ms` by the store's clock. Ids rise within a tenant."""

    line_id: str
    at_ms: int
    ref: TenantRef
    act: Act


def reason_violations(reason: str, *, required: bool = False) -> list[FieldViolation]:
    """What is wrong with a reason."""
    if required and not reason.strip():
        return [FieldViolation("reason", "must not be empty: whoever reads the audit trail wants to know why")]
    size = len(reason.encode())
    if size > MAX_REASON_BYTES:
        return [FieldViolation("reason", f"has {size} bytes; at most {MAX_REASON_BYTES} are allowed")]
    if not (reason.isprintable() or not reason):
        return [FieldViolation("reason", "must not hold control characters: write it on one line")]
    return []
