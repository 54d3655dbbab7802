"""What operators do by hand, and the line that each act leaves in the audit trail."""

from enum import IntEnum
from typing import Final, NamedTuple

from server.domain.operation import TenantRef


class Deed(IntEnum):
    """What was done. The numbers are stored and never change."""

    RESET = 1
    ADJUST = 2
    RELEASE = 3
    ACCOUNT = 4
    DELETE = 5


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
