"""What must hold between pools with queues, and between them and the actions whose requests wait."""

from collections.abc import Mapping

from server.domain.policy import Action
from server.policy.context import Context
from server.policy.document import Path, shown
from server.policy.kinds import AnyLimit, SlotsModel


def check_queues(context: Context, limits: list[AnyLimit], actions: Mapping[str, Action]) -> None:
    """Notes what pools with queues must not have, and where they do not agree with each other."""
    pools = {
        limit.id: (("limits", index), limit)
        for index, limit in enumerate(limits)
        if isinstance(limit, SlotsModel) and limit.queue is not None
    }
    for path, pool in pools.values():
        for plan, joined in pool.cells.items():
            at = (*path, "cells", plan)
            context.expect_known(at, joined, pools, "pool with a queue")
            if pool.id not in joined or any(
                pools[each][1].cells.get(plan) != joined for each in joined if each in pools
            ):
                context.reject(at, f"pools that share places list the same ones; expected it of {', '.join(joined)}")
        _check_tickets(context, path, pool, actions)
    listed = list(pools.values())
    for place, (path, pool) in enumerate(listed):
        for _, other in listed[:place]:
            if _overlap(pool, other):
                context.reject(
                    path, f"a request could wait in two queues, this and {other.id}'s; keep them apart by `when`"
                )


def _check_tickets(context: Context, path: Path, pool: SlotsModel, actions: Mapping[str, Action]) -> None:
    assert pool.queue is not None  # noqa: S101  # as chosen above
    ticket_ms = context.duration((*path, "queue", "ticket"), pool.queue.ticket)
    for name in pool.when.get("action", actions):
        if name in actions and actions[name].hold.granted_ms < ticket_ms:
            context.reject((*path, "queue", "ticket"), f"{shown(pool.queue.ticket)} is longer than the lease of {name}")


def _overlap(one: SlotsModel, other: SlotsModel) -> bool:
    """Whether some request falls under both."""
    shared = one.when.keys() & other.when.keys()
    return all(set(one.when[name]) & set(other.when[name]) for name in shared)
