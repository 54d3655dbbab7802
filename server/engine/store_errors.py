"""What can go wrong between a script call and its reply, and what each outcome proves.

The one question a caller has after a failed call is whether the store executed it. `StoreError.executed`
answers that; `StoreError.reason` is a short stable word for metrics, logs and callers that branch on it
(`oom`, `loading`, `timeout`, ...). Only this module reads the text of an error reply.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final


class Executed(Enum):
    """What is known about the effects of a failed call."""

    NO = "no"
    """Nothing was changed; the same call may be made again."""
    UNKNOWN = "unknown"
    """It may have been executed; look the operation up by its id before doing it again."""
    PERHAPS_PARTLY = "perhaps_partly"
    """It stopped in the middle; a bug or corrupt data, never to be retried."""


class StoreError(Exception):
    """Base of every fault of the store; always one of the subclasses below."""

    executed: ClassVar[Executed] = Executed.NO

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason: Final = reason


class StoreUnavailable(StoreError):
    """The call was certainly not executed: not sent, or refused by the store before it ran."""


class OutcomeUnknown(StoreError):
    """The call was sent and no answer came: reason `timeout`, `connection_lost` or `protocol`."""

    executed = Executed.UNKNOWN


class ScriptFailed(StoreError):
    """The store ran the call and it failed inside: wrong type, script error, malformed command."""

    executed = Executed.PERHAPS_PARTLY


class StoreUnsuitable(StoreError):
    """The store must not be used as it is: not Redis, too old, evicting, a replica, wrong password."""


class StoreLost(StoreError):
    """The store is not the one that was known: it came back empty or was exchanged."""


_IN_SCRIPT: Final = " script: "
"""Redis and Valkey append this and the script's line to an error raised by a running script."""

_NOT_EXECUTED: Final = {
    "ASK": "the address is one node of a cluster that is moving slots",
    "BUSY": "another script has been running for too long",
    "CLUSTERDOWN": "the cluster has lost nodes or slots",
    "LOADING": "the store is still loading its data",
    "MASTERDOWN": "the store is a replica without its primary",
    "MISCONF": "the store cannot write to its disk; see its log",
    "MOVED": "the address is one node of a cluster with several",
    "NOPERM": "the ACL user lacks a right",
    "NOREPLICAS": "fewer replicas are connected than min-replicas-to-write asks for",
    "NOSCRIPT": "the script is not loaded",
    "OOM": "the store has reached its maxmemory; raise it or release holds",
    "READONLY": "the store is a read-only replica; use the address of the primary",
    "TRYAGAIN": "the cluster is moving the keys of this call",
}

_ADVICE_FOR_CLUSTERS: Final = "; a single node, a one-node cluster or a cluster proxy is supported"

_UNSUITABLE: Final = {
    "NOAUTH": "the store wants a password: put it into the URL, redis://user:password@host:port",
    "WRONGPASS": "the store refused the user or password of the URL",
}

_MAX_CLIENTS: Final = "ERR max number of clients reached"


def error_from_reply(text: str) -> StoreError:
    """The exception for one error reply, e.g. `"OOM command not allowed ..."`."""
    code = text.partition(" ")[0]
    reason = code.lower()
    if _IN_SCRIPT in text:
        return ScriptFailed(f"a script failed in the store: {text}", reason=reason)
    if code in _NOT_EXECUTED:
        advice = _ADVICE_FOR_CLUSTERS if code in {"ASK", "MOVED"} else ""
        return StoreUnavailable(f"{_NOT_EXECUTED[code]}{advice} ({text})", reason=reason)
    if code in _UNSUITABLE:
        return StoreUnsuitable(f"{_UNSUITABLE[code]} ({text})", reason=reason)
    if text.startswith(_MAX_CLIENTS):
        return StoreUnavailable(
            f"the store has no connection left, raise its maxclients ({text})", reason="max_clients"
        )
    return ScriptFailed(f"the store answered with an error: {text}", reason=reason)
