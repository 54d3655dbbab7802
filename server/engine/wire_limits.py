"""A limit on the wire: what the scripts need of each kind, what a hold remembers of it, and what their figures mean."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, cast

from server.domain.limits.balance import Balance
from server.domain.limits.base import CycleTerms, Kind, Look, QueueLook
from server.domain.limits.quota import Quota
from server.domain.limits.slots import Slots
from server.domain.limits.window import Window
from server.domain.plan import CheckForm
from server.domain.policy import Policy
from server.domain.queue import Ticket
from server.engine import keys, quota_cells, wire_queues
from server.engine.sequences import pack

ToLook: TypeAlias = Callable[[CheckForm, int, int, int, int, int], Look]
"""Makes a look of a check, the three numbers of its row, the units taken since, and the time."""

_look = tuple.__new__
"""Makes a look of its figures as a tuple, at half the cost of calling its class, which five of each decision are."""


def _window_look(check: CheckForm, used: int, reset_ms: int, wait_ms: int, taken: int, _now_ms: int) -> Look:
    if taken and not reset_ms:
        reset_ms = check.limit.window_ms  # type: ignore[attr-defined]  # a window; `cast` would cost a call
    return _look(Look, (check.cap, used + taken, 0, reset_ms, wait_ms))


def _slots_look(check: CheckForm, used: int, _: int, wait_ms: int, taken: int, _now_ms: int) -> Look:
    used += taken
    return _look(Look, (check.cap, used, used, -1, wait_ms))


def _balance_look(_: CheckForm, there: int, held: int, wait_ms: int, taken: int, _now_ms: int) -> Look:
    held += taken
    return _look(Look, (there, held, held, -1, wait_ms))


def _quota_look(  # noqa: PLR0913, PLR0917  # a row, and what goes with it
    check: CheckForm, used: int, held: int, wait_ms: int, taken: int, now_ms: int
) -> Look:
    terms = cast("CycleTerms", check.terms)
    look = Look(check.cap, used + taken, held + taken, terms.end_ms - now_ms, wait_ms)
    return cast("Quota", check.limit).shown(look, terms, check.shown)


def _count_look(check: CheckForm, used: int, held: int, wait_ms: int, taken: int, _now_ms: int) -> Look:
    return Look(check.cap, used + taken, held + taken, -1, wait_ms)


def _queued_look(check: CheckForm, used: int, queued: int, wait_ms: int, taken: int, _now_ms: int) -> Look:
    used += taken
    return QueueLook(check.cap, used, used, -1, wait_ms, queued, check.queue.depth if check.queue is not None else 0)


_LOOKS: Final[Mapping[Kind, ToLook]] = {
    Kind.WINDOW: _window_look,
    Kind.SLOTS: _slots_look,
    Kind.BALANCE: _balance_look,
    Kind.QUOTA: _quota_look,
    Kind.COUNT: _count_look,
}
"""What a kind's two numbers mean (`check_all` in `lua/include/checks.lua`), once `taken` units are added to them."""


def look_of(check: CheckForm) -> ToLook:
    """What makes a look of the check's row."""
    return _LOOKS[check.limit.kind] if check.queue is None else _queued_look


def field(check: CheckForm) -> str:
    """The field of the check's cell."""
    return check.limit.cell if check.limit.kind is Kind.WINDOW else keys.standing_field(check)


def scope(check: CheckForm) -> str:
    """Where a take's cell is: '' for standing cells, else what its key has behind the tenant's tag (`keys.lua`)."""
    return "w:" + keys.scope_text(check) if check.limit.kind is Kind.WINDOW else ""


def param(check: CheckForm) -> int | str | bytes:
    """What a look needs beside the bound: a window's length, a balance's burn order, a quota's cycle with its terms
    (`quota.lua`), whether a pool's jobs are measured and their usual length (`pool.lua`).
    """
    limit = check.limit
    if isinstance(limit, Slots):
        return wire_queues.pool_param(limit, check.queue)
    if check.terms is not None:
        return quota_cells.packed_terms(check.terms)
    if isinstance(limit, Balance):
        return burn_order(limit) or 0
    return limit.window_ms if isinstance(limit, Window) else 0


def hold_param(check: CheckForm) -> int | bytes:
    """What a hold remembers of the limit for its end: a balance's debt (-1 - debt with a ledger) and thresholds, a
    window's length (negative: `returns`), a quota's cycle and thresholds, whether a pool's jobs are measured.
    """
    limit = check.limit
    if isinstance(limit, Slots):
        return wire_queues.kept_param(limit, None if check.queue is None else Ticket(check.queue.ticket_ms))
    if isinstance(limit, Quota) and check.terms is not None:
        return quota_cells.packed_cycle(check.terms.start_ms, limit.thresholds)
    if isinstance(limit, Balance):
        bound = -1 - limit.debt if limit.ledger else limit.debt
        return pack([pack([bound, *check.marks])]) if check.marks else bound
    if isinstance(limit, Window):
        return -limit.window_ms if limit.returns else limit.window_ms
    return 0


def is_kept(check: CheckForm) -> bool:
    """Whether a hold must remember the take: something may give it back or change it."""
    takes = not check.asks_room and (check.meter >= 0 or check.fixed > 0)
    if isinstance(check.limit, Window):
        return check.settles or (takes and check.limit.returns)
    return check.settles or takes


def windows_ttl_ms(policy: Policy, dimensions: tuple[str, ...]) -> int:
    """How long a scope's windows are kept after the last grant: twice the longest that shares the key."""
    return 2 * max(
        limit.window_ms for limit in policy.limits if isinstance(limit, Window) and limit.scope == dimensions
    )


def burn_order(limit: Balance) -> str:
    """The order of sources as digits; empty where grants are not kept apart."""
    return "".join(str(source.value) for source in limit.burn)
