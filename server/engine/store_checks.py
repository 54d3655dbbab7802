"""Is this store fit to hold budgets? Asked on every new connection, before it serves calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from server.engine.store_errors import ScriptFailed, StoreUnavailable, StoreUnsuitable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.engine.pipeline import StoreCall

Version = tuple[int, ...]

OLDEST: Final[Mapping[str, Version]] = {"redis": (7, 0), "valkey": (7, 2)}
"""The first versions that check a script's header before its first line runs."""

_IMITATIONS: Final[Mapping[str, str]] = {
    "dragonfly_version": "Dragonfly",
    "garnet_version": "Garnet",
    "kvrocks_version": "Kvrocks",
}
"""INFO fields of servers that speak the protocol and run scripts by other rules."""

_KEEPS_ALL: Final = "noeviction"


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the store said about itself."""

    server: str
    """`redis` or `valkey`."""
    version: Version
    """E.g. `(7, 0, 15)`."""
    cluster_enabled: bool
    notes: tuple[str, ...] = ()
    """What could not be checked or deserves a warning, each a sentence for the log."""


async def check_store(call: StoreCall, where: str) -> StoreFacts:
    """Ask the store what it is; `where` is its address for the error texts.

    Raises `StoreUnsuitable` for a store that would lose or corrupt budgets (not Redis or Valkey, too old,
    evicting, a replica, a sentinel, one of several cluster nodes) and `StoreUnavailable` while it is loading.
    HELLO needs no right; what only INFO shows becomes a note where the ACL forbids INFO.
    """
    try:
        hello = _pairs(await call("HELLO"))
    except ScriptFailed as error:
        raise StoreUnsuitable(
            f"the store at {where} does not know HELLO ({error}); use Redis 7.0 or Valkey 7.2, or newer",
            reason="too_old",
        ) from error
    info = await _fields_if_allowed(call, "INFO")
    if info.get("loading", "0") != "0":
        raise StoreUnavailable(f"the store at {where} is still loading its data", reason="loading")
    server, version = _identify(hello, info, where)
    _refuse_old(server, version, where)
    _refuse_role(hello, where)
    cluster_enabled = hello.get("mode") == "cluster"
    if cluster_enabled:
        _refuse_several_nodes(await _fields_if_allowed(call, "CLUSTER", "INFO"), where)
    return StoreFacts(server, version, cluster_enabled, _eviction(info, where) + _durability(info))


def _identify(hello: Mapping[str, str], info: Mapping[str, str], where: str) -> tuple[str, Version]:
    for name, product in _IMITATIONS.items():
        if name in info:
            raise StoreUnsuitable(
                f"the store at {where} is {product}, whose scripts run by other rules; use Redis or Valkey",
                reason="not_redis",
            )
    server = hello.get("server", "")
    if server not in OLDEST:
        raise StoreUnsuitable(f"the store at {where} calls itself {server!r}; use Redis or Valkey", reason="not_redis")
    return server, tuple(int(part) for part in hello["version"].split(".") if part.isdigit())


def _refuse_old(server: str, version: Version, where: str) -> None:
    oldest = OLDEST[server]
    if version < oldest:
        raise StoreUnsuitable(
            f"the store at {where} is {server} {_text(version)}; upgrade it to {_text(oldest)} or newer",
            reason="too_old",
        )


def _refuse_role(hello: Mapping[str, str], where: str) -> None:
    if hello.get("mode") == "sentinel":
        raise StoreUnsuitable(
            f"{where} is a sentinel, which stores nothing; ask it for the primary with"
            " SENTINEL GET-MASTER-ADDR-BY-NAME and put that address into HOLDGATE_REDIS_URL",
            reason="sentinel",
        )
    if hello.get("role") not in {"master", None}:
        raise StoreUnsuitable(
            f"the store at {where} is a read-only replica; put the address of its primary (INFO replication"
            " shows it) into HOLDGATE_REDIS_URL",
            reason="readonly",
        )


def _refuse_several_nodes(cluster: Mapping[str, str], where: str) -> None:
    if int(cluster.get("cluster_size", "1")) > 1:
        raise StoreUnsuitable(
            f"the store at {where} is one of several nodes of a cluster, and tenants live on all of them;"
            " use a single node, a one-node cluster, or a proxy that routes",
            reason="cluster",
        )


def _eviction(info: Mapping[str, str], where: str) -> tuple[str, ...]:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return ("INFO is forbidden, so nobody checked that maxmemory-policy is noeviction: see to it",)
    if policy != _KEEPS_ALL:
        raise StoreUnsuitable(
            f"the store at {where} deletes keys when memory is short (maxmemory-policy {policy}), which loses"
            f" budgets: type CONFIG SET maxmemory-policy {_KEEPS_ALL} and write it into its configuration",
            reason="evicting",
        )
    return ()


def _durability(info: Mapping[str, str]) -> tuple[str, ...]:
    if info.get("aof_enabled") == "0":
        return ("the store writes no append-only file, so a restart loses budgets: set appendonly yes",)
    return ()


async def _fields_if_allowed(call: StoreCall, *words: str) -> dict[str, str]:
    """The `name:value` lines of a reply; empty where an ACL or a renamed command forbids to ask."""
    try:
        reply: bytes = await call(*words)
    except (StoreUnavailable, ScriptFailed) as error:
        if error.reason not in {"noperm", "err"}:
            raise
        return {}
    lines = (line.partition(":") for line in reply.decode().splitlines())
    return {name: value for name, separator, value in lines if separator}


def _pairs(reply: list[object]) -> dict[str, str]:
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=False))


def _text(version: Version) -> str:
    return ".".join(str(part) for part in version)
